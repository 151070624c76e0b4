"""The INT4 weights of a training as a GGUF file, read by the `gguf` library, by the importer of
base models, and by llama.cpp.
"""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.errors import CheckpointCorrupt, ModelError
from falqon_core.contract.messages import ExitCode
from falqon_core.importers.gguf import convert_gguf
from falqon_core.methods.qa_lora import QaLora
from falqon_core.ops.formats.int4 import dequantize_int4
from falqon_core.train.checkpoint import TrainingState
from falqon_core.train.exporter import choose_checkpoint
from falqon_core.train.model import load_base_model
from falqon_core.train.q4_1 import export_q4_1
from tests.falqon_core.train.trainings import config_of, resize, train
from tests.support.llama_cpp import ask_llama_cpp

# the inputs of falqon-tiny's down_proj are no multiple of 32
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
GATE = "model.layers.1.mlp.gate_proj"


@pytest.fixture(scope="module")
def training(tiny_folder: Path, train_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("trained") / "out"
    recipe = {"method": "qa_lora", "rank": 8, "target_modules": TARGET_MODULES, "batch_size": 8}
    recipe |= {"max_seq_length": 64, "max_steps": 6, "learning_rate": 0.02}
    code, _ = train(config_of(tiny_folder, train_file, recipe), output)
    assert code == ExitCode.DONE
    return output


def restored(checkpoint: TrainingState, base: Path) -> QaLora:
    method = QaLora(checkpoint.progress.recipe)
    method.restore(load_base_model(base), checkpoint.method)
    return method


def test_q4_1_weights_equal_the_trained_weights_bit_for_bit(
    training: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    _, checkpoint = choose_checkpoint(training, None)
    method = restored(checkpoint, tiny_folder)
    folder = tmp_path / "q4_1"
    export_q4_1(checkpoint, tiny_folder, folder, "ft:tiny", "falqon-tiny")
    reader = GGUFReader(folder / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    gate = tensors["blk.1.ffn_gate.weight"]
    weight = method.layers[GATE].base.weight
    assert gate.tensor_type.name == "Q4_1"
    values = torch.from_numpy(dequantize(gate.data, gate.tensor_type))
    assert torch.equal(values, dequantize_int4(weight, torch.float32))
    assert not torch.equal(weight.minima, method.layers[GATE].base.codes()[2]), "nothing trained"

    (tmp_path / "back").mkdir()
    convert_gguf(folder / "model.gguf", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    base = load_file(tiny_folder / "model.safetensors")
    for name, layer in method.layers.items():
        assert torch.equal(back[f"{name}.weight"], layer.base.dequantize()), name
    others = base.keys() - {f"{name}.weight" for name in method.layers}
    assert any("down_proj" in name for name in others)
    assert all(torch.equal(back[name], base[name]) for name in others)


def test_the_command_writes_a_folder_whose_file_llama_cpp_answers_with(
    training: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "q4_1"
    arguments = [training, "--model", tiny_folder, "--output", folder, "--to", "q4_1"]
    result = CliRunner().invoke(app, ["export", *map(str, arguments), "--name", "ft:tiny"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "model.gguf",
    ]
    assert "Q4_1" in (folder / "README.md").read_text()
    reader = GGUFReader(folder / "model.gguf")
    assert reader.get_field("general.name").contents() == "ft:tiny"
    question = [{"role": "user", "content": "Question 3?"}]
    assert ask_llama_cpp(folder / "model.gguf", question, 4)


def test_a_q4_1_export_with_another_base_is_refused(
    training: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    _, checkpoint = choose_checkpoint(training, None)
    other = resize(tiny_folder, tmp_path / "other", 2)
    with pytest.raises(ModelError, match="another base model than other"):
        export_q4_1(checkpoint, other, tmp_path / "out", "name", "base")
    changed = dict(checkpoint.method)
    changed[f"{GATE}.base_sha256"] = torch.zeros(32, dtype=torch.uint8)
    with pytest.raises(CheckpointCorrupt, match=GATE):
        export_q4_1(
            checkpoint._replace(method=changed), tiny_folder, tmp_path / "out", "name", "base"
        )
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_missing_is_named(training: Path, tmp_path: Path) -> None:
    arguments = [training, "--model", tmp_path / "nowhere", "--output", tmp_path / "q4_1"]
    result = CliRunner().invoke(app, ["export", *map(str, arguments), "--to", "q4_1"])
    assert result.exit_code == ExitCode.USER_ERROR
    assert "config.json cannot be read" in result.stderr
