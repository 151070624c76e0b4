"""Ports for the trainer's messages: JSON lines for a supervisor, and a terminal or a log for
people.

On a terminal a progress bar shows step, loss, tokens per second and time left; anywhere else each
message is one plain line.
"""

import io
import os
import sys
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Exported,
    Failed,
    Finished,
    Log,
    Merged,
    RangeTested,
    Sampled,
    Started,
    StepMetrics,
    StoppedEarly,
    TrainerMessage,
    UntouchedEvaluated,
    describe_merged,
    encode,
)


class Port(Protocol):
    """A receiver of messages."""

    def __call__(self, message: TrainerMessage) -> None: ...

    def close(self) -> None:
        """Release the receiver; no message follows."""


class MessagePort:
    """A port of JSON lines on an open file descriptor. The end of its reader ends the process,
    whose further writes would have no owner.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, message: TrainerMessage) -> None:
        line = encode(message)
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            os._exit(ExitCode.STOPPED)

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self._descriptor)


class PlainLog:
    """A port of plain lines; with `discreet` without messages that quote the data, for a log that
    others read.
    """

    def __init__(self, discreet: bool) -> None:
        self._discreet = discreet

    def __call__(self, message: TrainerMessage) -> None:
        if self._discreet and isinstance(message, Sampled | Failed):
            return
        sys.stdout.write(describe(message) + "\n")
        sys.stdout.flush()

    def close(self) -> None: ...


class ProgressBar:
    """A progress bar with lines above it, on a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("training", total=None, figures="loading")
        self._progress.start()

    def __call__(self, message: TrainerMessage) -> None:
        match message:
            case Started():
                self._progress.update(
                    self._task, total=message.total_steps, completed=message.start_step, figures=""
                )
                self._progress.console.print(describe(message), markup=False)
            case StepMetrics():
                figures = f"loss {message.train_loss:.4f}  {_speed(message)}"
                self._progress.update(self._task, completed=message.step, figures=figures)
            case _:
                self._progress.console.print(describe(message), markup=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


def person_port(*, discreet: bool) -> Port:
    """Return the port for readers of stdout. A character that their locale lacks is escaped there,
    and ends no training.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # A test may have replaced it.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    if console.is_terminal:
        return ProgressBar(console)
    return PlainLog(discreet)


def describe(message: TrainerMessage) -> str:
    """One line for people; of samples, one for each."""
    match message:
        case Started():
            where = (
                f"continuing after step {message.start_step}" if message.start_step else "starting"
            )
            recomputed = ", activations computed twice" if message.activation_checkpointing else ""
            cut = f", {message.num_truncated_records} cut" if message.num_truncated_records else ""
            is_split = message.num_examples > message.num_records
            split = f" in {message.num_examples} sequences" if is_split else ""
            return (
                f"{where}: {message.total_steps} steps, {message.num_records} records{cut}{split}, "
                f"{message.tokens_per_epoch:,} tokens an epoch, "
                f"{message.num_trainable_parameters:,} trainable parameters on {message.device}, "
                f"{message.microbatch_tokens:,} tokens a pass{recomputed}"
            )
        case StepMetrics():
            quality = _quality(
                message.train_mean_token_accuracy,
                message.train_reward_accuracy,
                message.train_reward_margin,
            )
            return (
                f"step {message.step}/{message.total_steps}  loss {message.train_loss:.4f}  "
                f"{quality}  lr {message.learning_rate:.2e}  "
                f"grad norm {message.grad_norm:.3f}  codes changed {message.codes_changed:.2%}  "
                f"{_speed(message)}  "
                f"{message.memory_bytes / 2**30:.2f} GiB"
            )
        case Evaluated():
            quality = _quality(
                message.valid_mean_token_accuracy,
                message.valid_reward_accuracy,
                message.valid_reward_margin,
            )
            return f"step {message.step}: validation loss {message.valid_loss:.4f}, {quality}"
        case UntouchedEvaluated():
            return f"before training: validation loss {message.valid_loss:.4f}"
        case Sampled():
            return "\n".join(
                f"step {message.step}: asked {sample.prompt!r}, answers {sample.completion!r}, "
                f"expected {sample.expected!r}"
                for sample in message.samples
            )
        case CheckpointSaved():
            return f"step {message.step}: checkpoint {message.path}"
        case StoppedEarly():
            return f"step {message.step}: the last one, after {message.reason}"
        case Merged():
            return f"step {message.step}: {describe_merged(message)}"
        case RangeTested():
            return f"range test: {message.result.message}"
        case Exported():
            return f"model of step {message.step} written to {message.path}"
        case Finished():
            early = f", stopped early after {message.early_stop}" if message.early_stop else ""
            return (
                f"finished: {message.steps} steps, {message.trained_tokens:,} tokens "
                f"in {message.elapsed_seconds:.0f} s{early}"
            )
        case Failed():
            return f"failed ({message.code}): {message.message}"
        case Log():
            return f"{message.level}: {message.text}"
    return str(message)


def _speed(message: StepMetrics) -> str:
    share = "" if message.mfu is None else f" ({message.mfu:.0%} of peak)"
    return f"{message.tokens_per_second:,.0f} tokens/s{share}"


def _quality(
    token_accuracy: float | None, reward_accuracy: float | None, reward_margin: float | None
) -> str:
    if token_accuracy is not None:
        return f"accuracy {token_accuracy:.3f}"
    return f"reward accuracy {reward_accuracy or 0:.3f} margin {reward_margin or 0:.3f}"


def to_all(ports: list[Port]) -> Callable[[TrainerMessage], None]:
    """Return a function that sends a message to all ports."""

    def send(message: TrainerMessage) -> None:
        for port in ports:
            port(message)

    return send
