"""Trainings whose texts are longer than a sequence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from falqon_core.contract.config import TrainConfig
from falqon_core.contract.messages import CheckpointSaved, Started
from falqon_core.train.checkpoint import load_checkpoint, save_checkpoint
from falqon_core.train.data import load_data
from falqon_core.train.model import load_tokenizer
from tests.falqon_core.train import trainings
from tests.falqon_core.train.trainings import config_of, of

RECIPE = {
    "rank": 8,
    "max_seq_length": 32,
    "batch_size": 4,
    "num_epochs": 1,
    "checkpoint_every": 3,
    "validation_fraction": 0.2,
    "num_samples": 0,
}


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    path = tmp_path / "train.jsonl"
    texts = ["Lamps are sold here. " * (1 + number % 10) for number in range(15)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def config(**recipe: Any) -> TrainConfig:
        return config_of(tiny_folder, path, RECIPE | recipe)

    return config


def train(
    config: TrainConfig, output: Path, stop_after: int | None = None
) -> tuple[Started, list[Path]]:
    _, messages = trainings.train(config, output, stop_after)
    (started,) = of(Started, messages)
    return started, [Path(saved.path) for saved in of(CheckpointSaved, messages)]


def test_a_continued_training_ends_with_the_same_bytes(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    overlapping = config(text_overlap_tokens=8)
    started, whole = train(overlapping, tmp_path / "whole")
    assert (started.num_records, started.num_truncated_records) == (12, 0)
    assert started.num_examples > 2 * started.num_records
    assert started.total_steps == -(-started.num_examples // 4)
    _, (stopped_at,) = train(overlapping, tmp_path / "parts", 2)
    continued, parts = train(overlapping, tmp_path / "parts")
    assert continued.start_step == int(stopped_at.name) == 2
    assert parts[-1].name == whole[-1].name
    for path in whole[-1].iterdir():
        assert (parts[-1] / path.name).read_bytes() == path.read_bytes()


def test_a_training_that_began_with_cut_texts_continues_to_cut(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """As a checkpoint of that time has it: nothing is said about an overlap."""
    split, (newest, *_) = train(config(max_steps=1), tmp_path / "split")
    checkpoint = load_checkpoint(newest)
    progress = checkpoint.progress
    assert progress.recipe.text_overlap_tokens == 0
    cutting = {"text_overlap_tokens": None, "max_steps": 2}
    progress.recipe = progress.recipe.model_copy(update=cutting)
    earlier = config().model_copy(update={"recipe": progress.recipe})
    progress.data_sha256 = None
    progress.num_tokens = load_data(earlier, load_tokenizer(earlier.model), print).train.num_tokens
    save_checkpoint(tmp_path / "cut", checkpoint, keep=2)
    cut, _ = train(config(max_steps=2), tmp_path / "cut")
    assert (cut.start_step, cut.num_examples) == (1, cut.num_records)
    assert cut.num_truncated_records > 0
    assert split.num_examples > split.num_records == cut.num_records
