import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Finished,
    Log,
    Merged,
    Started,
    StepMetrics,
    StoppedEarly,
    TrainerMessage,
)
from falqon_core.train.exporter import export_training
from tests.falqon_core.train.trainings import bytes_of, config_of, of, train

# A learning rate that overshoots: the validation loss falls for a few of the 60 steps, then goes up
# and down; processors round sums in their own order, so none can be told the step.
RECIPE = {
    "rank": 8, "max_seq_length": 64, "batch_size": 8, "num_epochs": 20, "checkpoint_every": 100,
    "validation_fraction": 0.2,
    "eval_every": 2, "a_init": "orthonormal", "learning_rate": 0.2, "lr_schedule": "constant",
    "early_stopping_patience": 3, "warmup_ratio": 0,
    "num_samples": 0,
}  # fmt: skip


def run(
    model: Path,
    train_file: Path,
    output: Path,
    stop_after: int | None = None,
    **recipe: Any,
) -> tuple[ExitCode, list[TrainerMessage]]:
    return train(config_of(model, train_file, RECIPE | recipe), output, stop_after)


@pytest.fixture(scope="module")
def whole(
    tiny_folder: Path, train_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TrainerMessage]]:
    output = tmp_path_factory.mktemp("whole") / "out"
    code, messages = run(tiny_folder, train_file, output)
    assert code == ExitCode.DONE
    return output, messages


def test_early_stopping_ends_after_its_patience_and_reports_why(
    whole: tuple[Path, list[TrainerMessage]],
) -> None:
    _, messages = whole
    losses = {message.step: message.valid_loss for message in of(Evaluated, messages)}
    best = min(losses, key=lambda step: losses[step])
    (finished,) = of(Finished, messages)
    assert (
        finished.steps
        == best + 3 * RECIPE["eval_every"]
        == max(losses)
        < of(StepMetrics, messages)[0].total_steps
    )
    assert finished.best_step == best > 2
    assert (
        f"3 evaluations without a lower validation loss than {losses[best]:.4f} of step {best}"
        in finished.early_stop
    )


def test_the_end_of_the_steps_is_told_before_the_export_begins(
    whole: tuple[Path, list[TrainerMessage]],
) -> None:
    _, messages = whole
    (finished,) = of(Finished, messages)
    (told,) = of(StoppedEarly, messages)
    assert (told.step, told.reason) == (finished.steps, finished.early_stop)
    last_step = max(place for place, each in enumerate(messages) if isinstance(each, StepMetrics))
    assert last_step < messages.index(told) < messages.index(of(Merged, messages)[0])


def test_patience_that_ends_with_the_last_step_stops_nothing_early(
    whole: tuple[Path, list[TrainerMessage]], tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    (early,) = of(Finished, whole[1])
    _, messages = run(tiny_folder, train_file, tmp_path / "out", max_steps=early.steps)
    (finished,) = of(Finished, messages)
    assert (finished.steps, finished.best_step) == (early.steps, early.best_step)
    assert (finished.early_stop, of(StoppedEarly, messages)) == (None, [])


def test_the_best_checkpoint_outlives_the_newest(whole: tuple[Path, list[TrainerMessage]]) -> None:
    output, messages = whole
    (finished,) = of(Finished, messages)
    steps = {int(path.name) for path in (output / "checkpoints").iterdir()}
    assert {finished.best_step, finished.steps} <= steps
    saved = {message.step: message.metrics for message in of(CheckpointSaved, messages)}
    assert saved[finished.best_step]["valid_loss"] == min(
        message.valid_loss for message in of(Evaluated, messages)
    )


def test_the_exported_model_is_the_best_one(
    whole: tuple[Path, list[TrainerMessage]],
    tiny_folder: Path,
    train_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training that simply ends at the best step has the same weights."""
    output, messages = whole
    best = of(Finished, messages)[0].best_step
    code, _ = run(tiny_folder, train_file, tmp_path / "short", max_steps=best)
    assert code == ExitCode.DONE
    ours, theirs = (
        load_file(folder / "model" / "model.safetensors") for folder in (output, tmp_path / "short")
    )
    assert all((ours[name].float() == theirs[name].float()).all() for name in ours)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a card of a training
    export_training(output, tiny_folder, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        output / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("where", ["before the best", "while waiting"])
def test_early_stopping_after_an_interruption_gives_the_same_bytes(
    where: str,
    whole: tuple[Path, list[TrainerMessage]],
    tiny_folder: Path,
    train_file: Path,
    tmp_path: Path,
) -> None:
    output, messages = whole
    (finished,) = of(Finished, messages)
    step = finished.best_step - 1 if where == "before the best" else finished.best_step + 3
    code, _ = run(tiny_folder, train_file, tmp_path / "parts", step)
    assert code == ExitCode.STOPPED
    code, rest = run(tiny_folder, train_file, tmp_path / "parts")
    assert code == ExitCode.DONE
    assert of(Started, rest)[0].start_step == step
    (again,) = of(Finished, rest)
    assert (again.steps, again.best_step, again.early_stop) == (
        finished.steps,
        finished.best_step,
        finished.early_stop,
    )
    parts = bytes_of(tmp_path / "parts")
    expected = bytes_of(output)
    assert {
        name: parts[name]
        for name in parts
        if name in expected and name.startswith(("model/", f"checkpoints/{again.steps}/"))
    } == {
        name: expected[name]
        for name in expected
        if name.startswith(("model/", f"checkpoints/{again.steps}/"))
    }


def test_a_training_that_stopped_early_stays_stopped(
    whole: tuple[Path, list[TrainerMessage]], tiny_folder: Path, train_file: Path
) -> None:
    output, messages = whole
    before = (output / "model" / "SHA256SUMS").read_text()
    code, again = run(tiny_folder, train_file, output)
    assert code == ExitCode.DONE
    assert not of(StepMetrics, again)
    assert not of(Log, again)
    assert of(Finished, again)[0].early_stop == of(Finished, messages)[0].early_stop
    assert (output / "model" / "SHA256SUMS").read_text() == before


def test_a_training_whose_best_checkpoint_is_lost_exports_the_best_of_the_rest(
    whole: tuple[Path, list[TrainerMessage]], tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    best = of(Finished, whole[1])[0].best_step
    run(tiny_folder, train_file, tmp_path / "out", best + 3)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / str(best))

    code, messages = run(tiny_folder, train_file, tmp_path / "out")

    assert code == ExitCode.DONE
    (warning,) = of(Log, messages)
    assert warning.level == "warn"
    assert warning.text.startswith(f"the checkpoint of step {best} had the lowest validation loss")
    losses = {message.step: message.valid_loss for message in of(Evaluated, messages)}
    (finished,) = of(Finished, messages)
    assert finished.best_step == min(losses, key=lambda step: losses[step])


def test_a_training_that_stopped_early_exports_its_last_step_where_the_best_is_corrupt(
    whole: tuple[Path, list[TrainerMessage]], tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(whole[0], tmp_path / "out")
    (before,) = of(Finished, whole[1])
    (output / "checkpoints" / str(before.best_step) / "method.safetensors").write_bytes(b"")

    code, messages = run(tiny_folder, train_file, output)

    assert code == ExitCode.DONE
    assert not of(StepMetrics, messages)
    (finished,) = of(Finished, messages)
    assert (finished.steps, finished.best_step) == (before.steps, before.steps)
    (warning,) = of(Log, messages)
    assert warning.text.endswith(f"that of step {before.steps} is the best of the others")
