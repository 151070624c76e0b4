"""A training seen from a terminal: a live bar where someone is watching, one line per message elsewhere."""

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from falqon_core.spec.messages import CheckpointSaved, Evaluated, Exported, Failed, Finished, Log, Message, Started, StepMetrics

log = logging.getLogger("falqon")


class Terminal:
    """Call it with each message; use it as a context so that the bar is put away."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}")
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("training", total=None, numbers="")
        self._start: tuple[int, float] = (0, time.monotonic())

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, message: Message) -> None:
        if isinstance(message, Started):
            self._start = message.start_step, time.monotonic()
        if isinstance(message, StepMetrics):
            self._bar.update(self._task, completed=message.step, total=message.total_steps, numbers=self._numbers(message))
        if not isinstance(message, StepMetrics) or self._bar.disable:
            self._say(describe(message))

    def _numbers(self, message: StepMetrics) -> str:
        step, began = self._start
        left = (time.monotonic() - began) / max(1, message.step - step) * (message.total_steps - message.step)
        return f"loss {message.train_loss:.4f}  {message.tokens_per_second:.0f} tok/s  ETA {left:.0f} s"

    def _say(self, text: str) -> None:
        if self._bar.disable:
            log.info(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)


def describe(message: Message) -> str:
    """One line for people."""
    match message:
        case Started():
            origin = f"continuing from step {message.start_step}" if message.start_step else "starting"
            return (
                f"{origin}: {message.total_steps} steps, {message.num_records} records ({message.num_truncated_records} cut), "
                f"{message.tokens_per_epoch} tokens an epoch, {message.num_trainable_parameters} trained parameters, on {message.device}"
            )
        case StepMetrics():
            return (
                f"step {message.step}/{message.total_steps} loss {message.train_loss:.4f} lr {message.learning_rate:.2e} "
                f"norm {message.grad_norm:.3f} {message.tokens_per_second:.0f} tok/s"
            )
        case Evaluated():
            return f"step {message.step} validation loss {message.valid_loss:.4f} accuracy {message.valid_mean_token_accuracy:.3f}"
        case CheckpointSaved():
            return f"step {message.step} checkpoint {message.path} ({message.bytes / 2**20:.1f} MiB)"
        case Exported():
            return f"model written to {message.path}"
        case Finished():
            return f"finished: {message.steps} steps, {message.trained_tokens} tokens, {message.elapsed_seconds:.1f} s"
        case Failed():
            return f"failed ({message.code}): {message.message}"
        case Log():
            return f"{message.level}: {message.text}"
    raise TypeError(f"no words for {type(message).__name__}")
