"""Trainings with weights in blocks: their files, their certificate, a stop in the middle, a second
training from their model, and llama.cpp with the codes that were trained.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.block_weights import BLOCK_SPECS, BlockName
from falqon_core.contract.certificate import CERTIFICATE, Certificate
from falqon_core.contract.errors import ConfigError, ModelError
from falqon_core.contract.formats import FormatUnavailable
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import ExitCode, Merged
from falqon_core.export.formats import write_format
from falqon_core.export.reading import load_blocks, load_dequantized
from falqon_core.importers.gguf import convert_gguf
from falqon_core.methods.falqon import Falqon
from falqon_core.train.checkpoint import load_checkpoint
from falqon_core.train.model import load_base_model
from tests.falqon_core.families.models import FAMILIES, random_model
from tests.falqon_core.train.trainings import bytes_of, config_of, of, resize, train
from tests.support.llama_cpp import ask_llama_cpp

RECIPE = {
    "rank": 8,
    "max_seq_length": 64,
    "microbatch_tokens": 64,
    "batch_size": 8,
    "max_steps": 6,
    "checkpoint_every": 2,
    "learning_rate": 0.01,
}
GATE = "model.layers.1.mlp.gate_proj"


@pytest.fixture(scope="module", params=BLOCK_SPECS)
def weights(request: pytest.FixtureRequest) -> BlockName:
    name: BlockName = request.param
    return name


@pytest.fixture(scope="module")
def training(
    weights: BlockName,
    tiny_folder: Path,
    train_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from tests.falqon_core.verification import here

    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("trained") / "out"
    recipe = RECIPE | {"weights": weights, "validation_fraction": 0.2}
    config = config_of(tiny_folder, train_file, recipe, certificate=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(here.NAME, here.SUBPROCESS)
        code, messages = train(config, output)
    assert code == ExitCode.DONE
    (merged,) = of(Merged, messages)
    assert merged.valid_loss_fp8_weights is None
    assert merged.valid_loss_as_served == merged.valid_loss, "it is served as it was trained"
    return output


def trained_weights(training: Path, base: Path) -> dict[str, torch.Tensor]:
    """Return the values that the trainer computed with, by the name of their linear."""
    checkpoint = load_checkpoint(training / "checkpoints" / "6")
    method = Falqon(checkpoint.progress.recipe)
    method.restore(load_base_model(base), checkpoint.method)
    return {name: layer.weight.clone() for name, layer in method.layers.items()}


def test_the_files_hold_the_trained_bits(
    training: Path, weights: BlockName, tiny_folder: Path
) -> None:
    folder = model_folder(training)
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["format"] == BLOCK_SPECS[weights].folder
    values = load_dequantized(folder)
    base = load_file(tiny_folder / "model.safetensors")
    expected = trained_weights(training, tiny_folder)
    assert len(expected) == 14
    for name, value in expected.items():
        assert torch.equal(values[f"{name}.weight"], value), name
        assert not torch.equal(value, base[f"{name}.weight"])
    assert {f"{name}.weight" for name in expected} == load_blocks(folder).keys()
    card = (folder / "README.md").read_text()
    assert f"A merged {BLOCK_SPECS[weights].title} checkpoint" in card
    assert "FP8" not in card.partition("## Training")[0]


def test_the_certificate_compares_every_code(training: Path) -> None:
    certificate = Certificate.model_validate_json(
        (model_folder(training) / CERTIFICATE).read_bytes()
    )
    assert [(check.name, check.passed) for check in certificate.checks] == [
        (name, True)
        for name in ("codes_and_scales", "other_tensors", "tokenizer", "loss", "logits", "canary")
    ]
    stored = load_file(model_folder(training) / "model.safetensors")
    quantized = [name for name in stored if ".weight_" in name]
    assert certificate.checks[0].detail == f"{len(quantized)} tensors, bit for bit"


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")
def test_transformers_loads_the_very_values(training: Path) -> None:
    folder = model_folder(training)
    values = load_dequantized(folder)
    plain = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        quantization_config=CompressedTensorsConfig(dequantize=True),
    )
    state = plain.state_dict()
    assert all(torch.equal(state[name], value) for name, value in values.items())
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        # As it stands it multiplies codes that it unpacks for each product.
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)(ids).logits
        expected = plain(ids).logits
    assert (logits - expected).float().norm() < 0.02 * expected.float().norm()


def test_a_stopped_training_continues_to_the_same_bytes(
    training: Path, weights: BlockName, tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    config = config_of(
        tiny_folder, train_file, RECIPE | {"weights": weights, "validation_fraction": 0.2}
    )
    code, _ = train(config, tmp_path / "out", stop_after=3)
    assert code == ExitCode.STOPPED
    code, _ = train(config, tmp_path / "out")
    assert code == ExitCode.DONE
    whole, continued = (bytes_of(model_folder(each)) for each in (training, tmp_path / "out"))
    for name in ("model.safetensors", "config.json"):
        assert whole[name] == continued[name]


def test_its_model_is_a_base_to_train_again(
    training: Path, train_file: Path, tmp_path: Path
) -> None:
    again = config_of(model_folder(training), train_file, RECIPE | {"max_steps": 2})
    assert train(again, tmp_path / "out")[0] == ExitCode.DONE


def test_blocks_of_another_size_than_the_config_says_are_refused(
    training: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder(training), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.startswith(f"{GATE}.weight_")]:
        value = tensors[name]
        is_of_rows = name.endswith(("_packed", "_scale")) and value.ndim == 2
        tensors[name] = value[:-1].clone() if is_of_rows else value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{GATE}\.weight has the shape"):
        load_base_model(folder)


def test_bf16_holds_the_same_values(training: Path, tmp_path: Path) -> None:
    write_format("bf16", model_folder(training), tmp_path / "bf16", "ft:tiny", "falqon-tiny")
    assert "quantization_config" not in (tmp_path / "bf16" / "config.json").read_text()
    plain = load_file(tmp_path / "bf16" / "model.safetensors")
    for name, value in load_dequantized(model_folder(training)).items():
        assert torch.equal(plain[name], value)


def test_llama_cpp_has_the_trained_codes(
    training: Path, weights: BlockName, tmp_path: Path
) -> None:
    """In the blocks of the file where it has those, otherwise in bf16; both hold every value."""
    exact = weights in ("q4_0", "q8_0")
    format = f"gguf_{weights}" if exact else "gguf"
    arguments = [str(model_folder(training)), "--to", format, "--output", str(tmp_path / "gguf")]
    result = CliRunner().invoke(app, ["convert", *arguments, "--name", "ft:tiny"])
    assert result.exit_code == 0, result.output
    gguf = tmp_path / "gguf" / "model.gguf"
    gate = {each.name: each for each in GGUFReader(gguf).tensors}["blk.1.ffn_gate.weight"]
    assert gate.tensor_type.name == (weights.upper() if exact else "BF16")
    values = load_dequantized(model_folder(training))
    read = torch.from_numpy(dequantize(gate.data, gate.tensor_type))
    assert torch.equal(read, values[f"{GATE}.weight"].float())
    (tmp_path / "back").mkdir()
    convert_gguf(gguf, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], value) for name, value in values.items())
    assert ask_llama_cpp(gguf, [{"role": "user", "content": "Question 3?"}], 4)
    assert (tmp_path / "gguf" / f"{weights}-{CERTIFICATE}").is_file()


def test_forms_that_would_change_it_are_refused(training: Path, weights: BlockName) -> None:
    checkpoint = training / "checkpoints" / "6"
    with pytest.raises(FormatUnavailable, match="trained through the rounding"):
        write_format("lora", checkpoint, training / "lora", "ft:tiny", "falqon-tiny")
    output = str(training / "other")
    for to in ("gguf_q4_k_m", "gguf_q4_0" if weights != "q4_0" else "gguf_q8_0"):
        arguments = [str(model_folder(training)), "--to", to, "--output", output]
        result = CliRunner().invoke(app, ["convert", *arguments])
        assert result.exit_code == ExitCode.USER_ERROR
        assert "holds them exactly" in result.stderr
    assert not Path(output).exists()


def test_a_checkpoint_becomes_only_what_was_trained(
    training: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = [str(training), "--model", str(tiny_folder), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["export", *arguments, "--to", "fp8"])
    assert result.exit_code == ExitCode.USER_ERROR
    assert "its weights were trained in" in result.stderr
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 0, result.output
    ours, theirs = (
        path / "model.safetensors" for path in (tmp_path / "out", model_folder(training))
    )
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("name", [name for name in BLOCK_SPECS if name != "nvfp4"])
def test_inputs_that_fill_no_blocks_are_refused_with_the_numbers(
    name: str, tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    model = resize(tiny_folder, tmp_path / "model", 1, intermediate_size=176)
    config = config_of(model, train_file, RECIPE | {"weights": name})
    with pytest.raises(
        ConfigError, match="down_proj has 176 inputs, no multiple of the 32"
    ) as caught:
        train(config, tmp_path / "out")
    assert caught.value.param == "weights"
    assert "take fp8 or nvfp4" in str(caught.value)


def test_a_mixture_is_refused(tiny_folder: Path, train_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_model(FAMILIES["Qwen3 MoE"]).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    config = config_of(folder, train_file, RECIPE | {"weights": "nvfp4"})
    with pytest.raises(ConfigError, match="experts of a mixture are frozen in FP8"):
        train(config, tmp_path / "out")
