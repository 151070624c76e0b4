"""Smaller GGUF forms: what they hold, what llama.cpp answers with them, what rounding costs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.formats import QUANTIZED_GGUF, QuantizedGguf
from falqon_core.contract.messages import ExitCode
from falqon_core.contract.rounding import ROUNDING, Rounding
from tests.falqon_core.train import trainings

QUESTION = [{"role": "user", "content": "Question 3?"}]
LLAMA_CPP = Path(__file__).parents[1] / "export" / "ask_llama_cpp.py"


@pytest.fixture(scope="module")
def config(tiny_folder: Path, train_file: Path) -> TrainConfig:
    recipe = {"rank": 8, "max_seq_length": 64, "max_steps": 20, "validation_fraction": 0.2}
    return trainings.config_of(tiny_folder, train_file, recipe)


@pytest.fixture(scope="module")
def output(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("trained") / "out"
    code, _ = trainings.train(config, output)
    assert code == ExitCode.DONE
    (output / "config.json").write_text(config.model_dump_json())
    return output


def convert(source: Path, format: str, folder: Path, *options: str) -> str:
    arguments = ["convert", str(source), "--to", format, "--output", str(folder), *options]
    result = CliRunner().invoke(app, arguments)
    return "" if result.exit_code == 0 else result.output


def size(folder: Path) -> int:
    return (folder / "model.gguf").stat().st_size


def test_smaller_forms_say_what_they_cost(output: Path, tmp_path: Path) -> None:
    assert not convert(output / "model", "gguf", tmp_path / "gguf")
    sizes, losses = [size(tmp_path / "gguf")], []
    for format in QUANTIZED_GGUF:
        folder = tmp_path / format
        options = ["--training", str(output / "config.json")]
        assert not convert(output / "model", format, folder, *options)
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
        rounding = Rounding.model_validate_json((folder / ROUNDING).read_bytes())
        assert rounding.held_out.source == "validation"
        assert rounding.held_out.num_rows > 1
        assert f"{rounding.loss:.4f}" in (folder / "README.md").read_text()
        sizes.append(size(folder))
        losses.append(rounding.loss)
    assert sizes == sorted(sizes, reverse=True)
    assert abs(losses[0] - rounding.loss_fp8) < 0.01, "8 bits cost next to nothing"
    assert abs(losses[0] - rounding.loss_fp8) < abs(losses[2] - rounding.loss_fp8)


@pytest.mark.parametrize("format", QUANTIZED_GGUF)
def test_llama_cpp_answers_with_it(format: QuantizedGguf, output: Path, tmp_path: Path) -> None:
    assert not convert(output / "model", format, tmp_path / "small", "--name", "ft:tiny")
    file = tmp_path / "small/model.gguf"
    name = GGUFReader(file).get_field("general.name")
    assert name is not None
    assert name.contents() == "ft:tiny"
    assert not (tmp_path / "small" / ROUNDING).exists(), "no rows, no measurement"
    arguments = [sys.executable, str(LLAMA_CPP), str(file), json.dumps(QUESTION), "8"]
    completed = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert json.loads(completed.stdout)


def test_a_source_that_is_none_leaves_nothing(output: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(output / "model", tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    assert "tokenizer cannot be loaded" in convert(broken, "gguf_q8_0", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
