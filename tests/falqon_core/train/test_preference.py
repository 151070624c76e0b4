"""Objective "dpo" through the whole trainer."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Log,
    Started,
    StepMetrics,
    TrainerMessage,
    UntouchedEvaluated,
)
from falqon_core.data.dataset import load_dataset
from falqon_core.train import progress_counter
from falqon_core.train.checkpoint import load_checkpoint, save_checkpoint
from falqon_core.train.data import Datasets
from falqon_core.train.distributed import SINGLE_PROCESS
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.reference import compute_reference, log_probabilities
from falqon_core.train.report import describe
from falqon_core.train.signals import StoppedBeforeFirstStep
from tests.falqon_core.train.test_trainer import assert_continues
from tests.falqon_core.train.trainings import config_of, of, train

RECIPE = {
    "objective": "dpo", "rank": 8, "max_seq_length": 64, "microbatch_tokens": 160, "batch_size": 8,
    "max_steps": 6, "checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture
def run(
    tiny_folder: Path, preference_file: Path, tmp_path: Path
) -> Callable[..., tuple[ExitCode, list[TrainerMessage]]]:
    def run(
        output: str | Path = "out",
        stop_after: int | None = None,
        train_file: Path = preference_file,
        **recipe: Any,
    ) -> tuple[ExitCode, list[TrainerMessage]]:
        config = config_of(tiny_folder, train_file, RECIPE | recipe)
        return train(config, tmp_path / output, stop_after)

    return run


def test_the_margin_rises_and_is_told(run: Any, tmp_path: Path) -> None:
    code, messages = run(
        max_steps=30, learning_rate=0.003, rank=32, validation_fraction=0.2, eval_every=30
    )
    assert code == ExitCode.DONE
    (started,) = of(Started, messages)
    assert started.num_records == 24
    steps = of(StepMetrics, messages)
    assert steps[-1].train_reward_margin > steps[0].train_reward_margin + 1
    assert steps[-1].train_loss < steps[0].train_loss
    assert steps[-1].train_reward_accuracy == 1.0
    assert steps[0].train_mean_token_accuracy is None
    assert sum(message.tokens for message in steps[:3]) == started.tokens_per_epoch
    (untouched,), (evaluated,) = of(UntouchedEvaluated, messages), of(Evaluated, messages)
    assert untouched.valid_loss == math.log(2) > evaluated.valid_loss
    assert evaluated.valid_reward_margin > 0
    names = {
        f"{part}_{name}"
        for part in ("train", "valid")
        for name in ("loss", "reward_accuracy", "reward_margin")
    }
    assert set(of(CheckpointSaved, messages)[-1].metrics) == names
    assert "reward accuracy 1.000 margin" in describe(steps[-1])
    assert "Direct preference optimization" in (tmp_path / "out/model/README.md").read_text()


@pytest.mark.parametrize("method", ["falqon", "qlora"])
def test_the_first_loss_is_log_two_however_coarse_the_weights(run: Any, method: str) -> None:
    _, messages = run(max_steps=1, beta=1.0, method=method)
    (step,) = of(StepMetrics, messages)
    assert step.train_loss == pytest.approx(math.log(2), abs=0.01)
    assert step.train_reward_margin == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "recipe",
    [
        {"packing": True, "validation_fraction": 0.1},
        {"packing": False, "a_init": "gradient"},
        {"method": "lora", "validation_fraction": 0.1},
    ],
)
def test_continued_is_uninterrupted(recipe: dict[str, Any], run: Any, tmp_path: Path) -> None:
    assert_continues(run, tmp_path, **recipe)


def test_a_continued_training_takes_its_reference_from_the_checkpoint(
    run: Any, tmp_path: Path
) -> None:
    run(stop_after=3, validation_fraction=0.1)
    checkpoint = load_checkpoint(tmp_path / "out/checkpoints/3")
    reference = {
        name: value - 1
        for name, value in checkpoint.method.items()
        if name.startswith("reference.")
    }
    assert {name: value.shape for name, value in reference.items()} == {
        "reference.train": (27, 2),
        "reference.validation": (3, 2),
    }
    shutil.rmtree(tmp_path / "out/checkpoints/3")
    save_checkpoint(
        tmp_path / "out", checkpoint._replace(method=checkpoint.method | reference), keep=2
    )

    run(validation_fraction=0.1)

    last = load_checkpoint(tmp_path / "out/checkpoints/6").method
    assert all(torch.equal(last[name], value) for name, value in reference.items())


def test_the_reference_is_what_the_model_says_of_each_record_alone(
    tiny_folder: Path, preference_file: Path
) -> None:
    recipe = Recipe.model_validate(RECIPE).resolved(30)
    model = load_base_model(tiny_folder)
    data = Datasets(load_dataset(preference_file, load_tokenizer(tiny_folder), 64), None)

    values = compute_reference(model, data, recipe, SINGLE_PROCESS, lambda _: None, lambda: False)

    references = values["reference.train"]
    assert references.shape == (30, 2)
    for index in (0, 13, 29):
        alone = log_probabilities(model, [data.train.sequences[index]], recipe.packing)
        torch.testing.assert_close(references[index], alone[0], rtol=0.01, atol=0.05)
    assert not references.requires_grad


def test_the_model_is_asked_about_the_pairs_that_are_read(run: Any, tmp_path: Path) -> None:
    run(max_steps=2, batch_size=4, validation_fraction=0.1)
    stored = load_checkpoint(tmp_path / "out/checkpoints/2").method
    assert stored["reference.train"].isfinite().all(1).sum() == 2 * 4
    assert stored["reference.validation"].isfinite().all()


def test_the_reference_pass_reports_progress_and_stops_on_request(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_counter, "REPORT_SECONDS", 0.0)
    _, messages = run()
    texts = [message.text for message in of(Log, messages)]
    assert len(texts) > 2
    assert texts[-1] == "reference: 30 of 30 pairs are read"
    with pytest.raises(StoppedBeforeFirstStep):
        run("stopped", stop_after=0)
    assert not (tmp_path / "stopped/checkpoints").exists()


def test_other_preferences_in_the_same_folder_are_refused(
    run: Any, preference_file: Path, tmp_path: Path
) -> None:
    """Also the same in another order: each has a reference of its own."""
    run(stop_after=1)
    lines = preference_file.read_text().splitlines(keepends=True)
    for others in (lines[:20], lines[::-1]):
        path = tmp_path / "others.jsonl"
        path.write_text("".join(others))
        with pytest.raises(ConfigError, match="other training data"):
            run(train_file=path)
