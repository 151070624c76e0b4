"""Smaller GGUF forms: what they hold, what llama.cpp answers with them, what rounding costs."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.certificate import HeldOut
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.formats import QUANTIZED_GGUF, QuantizedGguf
from falqon_core.contract.messages import ExitCode
from falqon_core.contract.rounding import ROUNDING, Rounding
from falqon_core.data.dataset import Dataset
from falqon_core.data.sequences import sequences_of
from falqon_core.train.data import Datasets, load_data
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.rounding import compare
from tests.falqon_core.train import trainings
from tests.support.llama_cpp import ask_llama_cpp

QUESTION = [{"role": "user", "content": "Question 3?"}]


@pytest.fixture(scope="module")
def config(tiny_folder: Path, train_file: Path) -> TrainConfig:
    recipe = {"rank": 8, "max_seq_length": 64, "max_steps": 20, "validation_fraction": 0.2}
    recipe |= {"checkpoint_every": 20, "num_epochs": 15, "batch_size": 8, "learning_rate": 0.005}
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
    sizes, same = [size(tmp_path / "gguf")], []
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
        same.append(rounding.same_tokens)
        assert abs(rounding.loss - rounding.loss_fp8) < 0.1
    assert sizes == sorted(sizes, reverse=True)
    assert 0.5 < same[2] < same[0] <= 1


@pytest.mark.parametrize("format", QUANTIZED_GGUF)
def test_llama_cpp_answers_with_it(format: QuantizedGguf, output: Path, tmp_path: Path) -> None:
    assert not convert(output / "model", format, tmp_path / "small", "--name", "ft:tiny")
    file = tmp_path / "small/model.gguf"
    name = GGUFReader(file).get_field("general.name")
    assert name is not None
    assert name.contents() == "ft:tiny"
    assert not (tmp_path / "small" / ROUNDING).exists(), "no rows, no measurement"
    assert ask_llama_cpp(file, QUESTION, 8)


def test_an_adapter_is_compared_with_the_merged_model(
    output: Path, config: TrainConfig, tmp_path: Path
) -> None:
    """On its base in bf16 it lacks the rounding to FP8 and nothing else."""
    source = shutil.copytree(output / "checkpoints/20", tmp_path / "source")
    shutil.copyfile(config.model / "config.json", source / "config.json")
    options = ["--training", str(output / "config.json"), "--merged", str(output / "model")]
    assert not convert(source, "gguf_lora", tmp_path / "adapter", *options)
    rounding = Rounding.model_validate_json((tmp_path / "adapter" / ROUNDING).read_bytes())
    refused = convert(source, "gguf_lora", tmp_path / "other", *options[2:])
    assert "--merged goes with --to gguf_lora and --training" in refused
    assert 0 < abs(rounding.loss - rounding.loss_fp8) < 0.02
    assert rounding.same_tokens > 0.9
    untouched = compare(load_base_model(config.model), output / "model", config)
    assert abs(rounding.loss - rounding.loss_fp8) < abs(untouched.loss - rounding.loss_fp8) / 5


def rounding_on(
    output: Path,
    config: TrainConfig,
    train_file: Path,
    records: list[dict[str, str]],
    **recipe: int,
) -> tuple[Rounding, Datasets]:
    """Return the comparison of the base with the merged model, and the data that it is of."""
    train_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {"max_seq_length": 1536, "validation_fraction": 0.5} | recipe
    training = trainings.config_of(config.model, train_file, options)
    rounding = compare(load_base_model(config.model), output / "model", training)
    return rounding, load_data(training, load_tokenizer(config.model), print)


def num_cut_tokens(data: Dataset) -> list[int]:
    """Return the tokens of each row within the first 512 of which something is learned."""
    rows = (sequence for item in data.sequences for sequence in sequences_of(item))
    return [min(len(row), 512) for row in rows if row.loss_mask[:512].any()]


def test_rows_whose_prompts_are_long_are_measured_to_their_answers(
    output: Path, config: TrainConfig, tmp_path: Path
) -> None:
    records = [
        {"prompt": "a lamp " * (700 - 40 * number), "completion": "seven bells"}
        for number in range(4)
    ]
    rounding, data = rounding_on(output, config, tmp_path / "train.jsonl", records)
    assert data.validation is not None
    assert not num_cut_tokens(data.validation)
    assert rounding.held_out == HeldOut(
        source="validation", num_rows=2, num_tokens=data.validation.num_tokens
    )


def test_rows_of_long_texts_that_overlap_are_measured(
    output: Path, config: TrainConfig, tmp_path: Path
) -> None:
    records = [{"text": "Lamps are sold here. " * (100 + 50 * number)} for number in range(4)]
    path = tmp_path / "train.jsonl"
    rounding, data = rounding_on(output, config, path, records, text_overlap_tokens=600)
    assert data.validation is not None
    tokens = num_cut_tokens(data.validation)
    assert len(tokens) > 0
    assert rounding.held_out == HeldOut(
        source="validation", num_rows=len(tokens), num_tokens=sum(tokens)
    )


def test_rows_that_are_measured_are_those_that_training_holds_out(
    output: Path, config: TrainConfig, tmp_path: Path
) -> None:
    """Also where some records learn nothing within the tokens that are measured."""
    records = [
        {"prompt": "lamp " * (900 if number % 3 == 0 else 1), "completion": "bell " * 2**number}
        for number in range(8)
    ]
    rounding, data = rounding_on(output, config, tmp_path / "train.jsonl", records)
    assert data.validation is not None
    tokens = num_cut_tokens(data.validation)
    assert 0 < len(tokens) < len(data.validation.sequences)
    assert rounding.held_out == HeldOut(
        source="validation", num_rows=len(tokens), num_tokens=sum(tokens)
    )


def test_a_source_that_is_none_leaves_nothing(output: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(output / "model", tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    assert "tokenizer cannot be loaded" in convert(broken, "gguf_q8_0", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
