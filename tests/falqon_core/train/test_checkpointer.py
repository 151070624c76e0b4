"""Checkpoints that a thread writes while training goes on, as on a GPU; here on the CPU."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from falqon_core import fault_points
from falqon_core.contract.errors import as_falqon_error
from falqon_core.contract.messages import (
    CheckpointSaved,
    ExitCode,
    Exported,
    Finished,
    Started,
    StepMetrics,
    TrainerMessage,
)
from falqon_core.train import trainer
from falqon_core.train.checkpoint import load_checkpoint
from falqon_core.train.checkpointer import Checkpointer
from falqon_core.train.trainer import Trainer
from tests.falqon_core.train.processes import ENVIRONMENT
from tests.falqon_core.train.trainings import bytes_of, config_of
from tests.support.forks import Fork

RECIPE = {
    "rank": 8,
    "max_seq_length": 64,
    "microbatch_tokens": 64,
    "batch_size": 8,
    "max_steps": 8,
    "checkpoint_every": 2,
    "a_init": "orthonormal",
    "validation_fraction": 0.1,
    "eval_every": 1,
    "num_samples": 0,
}
SECONDS = 60.0  # no test takes them, unless threads wait for each other


class InBackground(Checkpointer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args[:-1], True)


class Gate:
    """Where the writer waits, until it is opened."""

    def __init__(self) -> None:
        self._is_open = threading.Event()

    def open(self) -> None:
        self._is_open.set()

    def __call__(self) -> None:
        assert self._is_open.wait(SECONDS)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setitem(fault_points.ACTIONS, "wait", gate)
    yield gate
    fault_points.arm("")


def run(
    model: Path,
    train_file: Path,
    output: Path,
    send: Callable[[TrainerMessage], None],
    stop: Callable[[], bool] = lambda: False,
    **recipe: Any,
) -> ExitCode:
    return Trainer(config_of(model, train_file, RECIPE | recipe), output, send, stop).run()


@pytest.fixture
def train(
    tiny_folder: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ExitCode]:
    monkeypatch.setattr(trainer, "Checkpointer", InBackground)
    return partial(run, tiny_folder, train_file)


def hashes(messages: list[TrainerMessage]) -> dict[int, str]:
    """Return those of the checkpoints' manifests, by step."""
    saved = [message for message in messages if isinstance(message, CheckpointSaved)]
    return {message.step: message.manifest_sha256 for message in saved}


def saved_steps(messages: list[TrainerMessage]) -> list[int]:
    return list(hashes(messages))


@pytest.mark.parametrize(
    "recipe", [{"early_stopping_patience": 2, "learning_rate": 0.3}, {"base_copy": "none"}]
)
def test_a_checkpoint_written_by_a_thread_holds_the_state_of_its_step(
    recipe: dict[str, Any], train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folders: whole states of their own step, the newest and the best kept."""
    by_thread: list[TrainerMessage] = []
    assert train(tmp_path / "thread", by_thread.append, **recipe) == ExitCode.DONE
    monkeypatch.setattr(trainer, "Checkpointer", Checkpointer)
    at_once: list[TrainerMessage] = []
    assert train(tmp_path / "at once", at_once.append, **recipe) == ExitCode.DONE
    assert bytes_of(tmp_path / "thread") == bytes_of(tmp_path / "at once")
    assert hashes(by_thread) == hashes(at_once)
    kinds = [type(message) for message in by_thread]
    assert CheckpointSaved not in kinds[kinds.index(Exported) :]


def test_steps_continue_while_a_checkpoint_is_written_and_the_next_save_waits(
    gate: Gate, train: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "checkpoints"
    messages: list[TrainerMessage] = []

    def send(message: TrainerMessage) -> None:
        messages.append(message)
        if isinstance(message, StepMetrics) and message.step == 4:
            assert not saved_steps(messages)
            assert not [path for path in folder.iterdir() if path.name.isdigit()]
            threading.Timer(0.05, gate.open).start()
        if isinstance(message, CheckpointSaved):
            assert (folder / str(message.step) / "manifest.json").exists()

    fault_points.arm("checkpoint_write=wait")
    code = train(tmp_path / "out", send, validation_fraction=0.0)

    assert code == ExitCode.DONE
    assert saved_steps(messages) == [2, 4, 6, 8]
    assert [type(message) for message in messages[-3:]] == [CheckpointSaved, Exported, Finished]


def test_a_stop_waits_for_the_checkpoint_in_progress(
    gate: Gate, train: Any, tmp_path: Path
) -> None:
    messages: list[TrainerMessage] = []

    def stop() -> bool:
        steps = [message for message in messages if isinstance(message, StepMetrics)]
        if len(steps) == 3:
            gate.open()
        return len(steps) == 3

    fault_points.arm("checkpoint_write=wait")
    code = train(tmp_path / "out", messages.append, stop, validation_fraction=0.0)

    assert code == ExitCode.STOPPED
    assert saved_steps(messages) == [2, 3]
    for step in (2, 3):  # what came after a save was not in it, though it was written later
        progress, _, optimizer = load_checkpoint(tmp_path / "out" / "checkpoints" / str(step))
        steps = {int(value) for name, value in optimizer.items() if name.endswith(".step")}
        assert (progress.step, len(progress.rows), steps) == (step, step, {step})


@pytest.mark.parametrize("passage", [2, 4])
def test_a_failure_to_write_ends_the_training_with_itself(
    passage: int, train: Any, tmp_path: Path
) -> None:
    """Of the second checkpoint at a step after it, of the last one at the end."""
    messages: list[TrainerMessage] = []
    fault_points.arm(f"checkpoint_write=enospc*{passage}")
    with pytest.raises(OSError, match="No space left") as failed:
        train(tmp_path / "out", messages.append, validation_fraction=0.0)
    fault_points.arm("")
    assert as_falqon_error(failed.value).code == "disk_full"
    assert saved_steps(messages) == [2, 4, 6][: passage - 1]
    names = {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert names == ({"2"} if passage == 2 else {"4", "6"})
    assert not any(isinstance(message, Exported) for message in messages)


@pytest.mark.parametrize("writer_fails", [False, True])
def test_a_training_that_fails_meanwhile_says_why_and_keeps_what_was_whole(
    writer_fails: bool, gate: Gate, train: Any, tmp_path: Path
) -> None:
    messages: list[TrainerMessage] = []

    def send(message: TrainerMessage) -> None:
        messages.append(message)
        if isinstance(message, StepMetrics) and message.step == 3:
            gate.open()
            raise ArithmeticError("of step 3")

    points = "checkpoint_write=wait checkpoint_written=raise"
    fault_points.arm(points if writer_fails else "checkpoint_write=wait")
    with pytest.raises(ArithmeticError, match="of step 3"):
        train(tmp_path / "out", send, validation_fraction=0.0)

    assert saved_steps(messages) == ([] if writer_fails else [2])
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["2"]


def test_a_training_killed_while_saving_continues_from_the_previous_checkpoint(
    tiny_folder: Path, train_file: Path, train: Any, tmp_path: Path
) -> None:
    arguments = (tiny_folder, train_file, tmp_path / "parts")
    killed = Fork(_train_until_killed, arguments, environment=ENVIRONMENT, output=tmp_path / "log")
    assert killed.wait(SECONDS) == 137, (tmp_path / "log").read_text()
    folder = tmp_path / "parts" / "checkpoints"
    whole, half = sorted((path.name for path in folder.iterdir()), reverse=True)
    assert (whole, half[:3]) == ("2", ".4.")

    messages: list[TrainerMessage] = []
    assert train(tmp_path / "parts", messages.append, validation_fraction=0.0) == ExitCode.DONE
    assert isinstance(messages[0], Started)
    assert messages[0].start_step == 2
    assert train(tmp_path / "whole", print, validation_fraction=0.0) == ExitCode.DONE
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def _train_until_killed(arguments: tuple[Path, Path, Path]) -> None:
    trainer.Checkpointer = InBackground  # type: ignore[misc]
    fault_points.arm("checkpoint_write=exit*2")
    run(*arguments, print, validation_fraction=0.0)
