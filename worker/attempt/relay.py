"""From the trainer's messages to events: read all the time, written in batches."""

import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import structlog
from pydantic import ValidationError

from app.attempts.values import AttemptMeasurements, Batch
from app.base import counters
from app.jobs.events import Level, NewEvent
from app.models.base import JsonObject
from falqon_core.contract.messages import (
    AnyMessage,
    CheckpointSaved,
    Evaluated,
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
    UntouchedEvaluated,
    decode,
    describe_merged,
)
from falqon_core.fault_points import fault
from worker.attempt.progress import AttemptProgress
from worker.attempt.spool import Spool
from worker.attempt.writer import MAX_BACKOFF_SECONDS, AttemptWriter
from worker.gateway import UNAVAILABLE

BATCH_SECONDS = 1.0  # Interval while somebody reads the events, or may.
BATCH_MESSAGES = 50
UNREAD_SECONDS = 5.0
UNREAD_MESSAGES = 500
QUIET_SECONDS = 5.0  # Time and cost change without messages, too.
MAX_BATCH = 1_000  # Events in one transaction.
MAX_LINE_BYTES = 2**20  # A longer line is not a message.
log = structlog.get_logger()


class Relay:
    """A thread reads the pipe, so that the trainer never waits for us; `pump` and `flush` write
    what has come.
    """

    def __init__(
        self,
        writer: AttemptWriter,
        progress: AttemptProgress,
        device: str,
        spool: Spool,
        on_checkpoint: Callable[[CheckpointSaved], None],
        on_metrics: Callable[[int, JsonObject], None] = lambda step, data: None,
        on_message: Callable[[AnyMessage], None] = lambda message: None,
        *,
        is_watched: Callable[[], bool] = lambda: True,
        unread_seconds: float = UNREAD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`device`: whose price is charged. `is_watched`: whether somebody reads the events as they
        come. Without a reader they are written once in `unread_seconds`.
        """
        self._writer = writer
        self._progress = progress
        self._device = device
        self._on_checkpoint = on_checkpoint
        self._on_metrics = on_metrics
        self._on_message = on_message
        self._waiting = spool
        self._batch: list[NewEvent] = []
        self._num_written = 0
        self._is_watched = is_watched
        self._unread_seconds = unread_seconds
        self._clock = clock
        self._tried_at = self._asked_at = clock()
        self._was_watched = True
        self._backoff = 0.0
        self._started: Started | None = None
        self._newest_step = 0
        self._reader: threading.Thread | None = None
        self.failed: Failed | None = None
        self.finished: Finished | None = None

    def read(self, messages: BinaryIO) -> None:
        self._reader = threading.Thread(
            target=self._read, args=[messages], name="relay", daemon=True
        )
        self._reader.start()

    def join(self, seconds: float) -> None:
        """Wait for the end of the pipe."""
        if self._reader is not None:
            self._reader.join(seconds)

    def pump(self) -> None:
        """Write a batch if one is due; when the database is unavailable it stays for the next time.
        Raises `LeaseLost`.
        """
        if self._is_due(self._clock() - self._tried_at):
            self._write()

    def flush(self) -> None:
        """Write everything, waiting for the database as long as the lease lasts. Raises
        `LeaseLost`.
        """
        while self._waiting or self._batch:
            if not self._write():
                time.sleep(self._backoff)

    def _is_due(self, since: float) -> bool:
        if self._backoff:
            return since >= self._backoff
        num_waiting = len(self._waiting)
        if not num_waiting and not self._batch:
            return since >= QUIET_SECONDS
        if since >= max(BATCH_SECONDS, self._unread_seconds) or num_waiting >= UNREAD_MESSAGES:
            return True
        if since < BATCH_SECONDS and num_waiting < BATCH_MESSAGES:
            return False
        # The check runs once a second too, so that a new reader waits no longer than that.
        if self._clock() - self._asked_at >= BATCH_SECONDS:
            self._asked_at = self._clock()
            self._was_watched = self._is_watched()
        return self._was_watched

    def _write(self) -> bool:
        self._tried_at = self._clock()
        self._fill_batch()
        counters.RELAY_BACKLOG.set(len(self._batch) + len(self._waiting))
        try:
            fault("before_batch")
            self._write_batch()
            fault("after_batch")
        except UNAVAILABLE as error:
            self._backoff = min(MAX_BACKOFF_SECONDS, max(0.1, 2 * self._backoff))
            log.warning(
                "events not written yet",
                job_id=self._writer.claim.job_id,
                waiting=len(self._batch),
                error=str(error),
            )
            return False
        self._num_written += len(self._batch)
        self._backoff = 0.0
        self._batch = []
        counters.RELAY_BACKLOG.set(len(self._waiting))
        return True

    def _fill_batch(self) -> None:
        """Add what waits. Events that were in a batch before stay there, in their place: their
        number tells whether they are written.
        """
        self._batch += self._waiting.take(MAX_BATCH - len(self._batch))
        if not self._waiting and (lost := self._waiting.take_lost()):
            text = (
                f"{lost} events are lost: they came while the database was away, "
                "and there was no room to keep them"
            )
            self._batch.append(NewEvent(text, level="warn", data={"lost_events": lost}))

    def _write_batch(self) -> None:
        claim = self._writer.claim
        measured = AttemptMeasurements()
        if self._started is not None:
            measured = AttemptMeasurements(
                start_step=self._started.start_step, **self._progress.measured
            )
        batch = Batch(
            before=self._num_written,
            events=self._batch,
            columns=self._progress.columns,
            measured=measured,
        )
        price = self._writer.write(
            lambda: self._writer.gateway.append_batch(claim, self._device, batch)
        )
        if price is None:
            self._writer.raise_lease_lost()
        self._progress.reprice(price)

    def _read(self, messages: BinaryIO) -> None:
        with messages:
            for line in iter(lambda: messages.readline(MAX_LINE_BYTES), b""):
                try:
                    self._handle(line)
                except ValidationError as error:
                    details = error.errors(
                        include_url=False, include_context=False, include_input=False
                    )
                    log.warning(
                        "not a message of the trainer",
                        job_id=self._writer.claim.job_id,
                        reason=details[0]["msg"],
                    )

    def _handle(self, line: bytes) -> None:
        decoded = decode(line)
        self._on_message(decoded)
        match decoded:
            case Started() as message:
                self._started = message
                self._newest_step = message.start_step
                self._progress.started(message)
                self._waiting.add(_start_event(message))
                self._add_health_changes()
            case StepMetrics() as message:
                self._progress.step(message)
                text = (
                    f"Step {message.step}/{message.total_steps}: "
                    f"training loss={message.train_loss:.2f}"
                )
                self._add_metrics(message.step, text, self._progress.metrics(message))
                self._add_health_changes()
            case Evaluated() as message:
                self._progress.evaluated(message)
                text = f"{self._step_of(message)}: validation loss={message.valid_loss:.2f}"
                self._add_metrics(
                    message.step, text, message.model_dump(exclude={"type"}, exclude_none=True)
                )
                self._add_health_changes()
            case UntouchedEvaluated() as message:
                self._progress.untouched_evaluated(message)
                if self._newest_step == 0:
                    text = f"Before training: validation loss={message.valid_loss:.2f}"
                    self._waiting.add(NewEvent(text))
            case Sampled() as message:
                self._progress.sampled()
                count = len(message.samples)
                text = f"{self._step_of(message)}: answers to {count} validation prompts"
                data = _without_nul(message.model_dump(exclude={"type"}))
                self._waiting.add(NewEvent(text, data=data))
            case CheckpointSaved() as message:
                self._progress.checkpointed()
                self._on_checkpoint(message)
            case StoppedEarly():
                self._progress.stopped_early()
            case Merged() as message:
                self._progress.merged(message)
                # The model may be of an earlier step; to readers of metrics, steps that fall are of
                # another attempt.
                step = max(message.step, self._newest_step)
                data = message.model_dump(
                    exclude={"type", "weights", "valid_loss"}, exclude_none=True
                )
                self._add_metrics(step, describe_merged(message), data | {"step": step})
            case Exported() as message:
                self._progress.exported(message)
                text = f"The model of step {message.step} is merged and written; uploading it"
                self._waiting.add(NewEvent(text, data={"model_step": message.step}))
            case RangeTested(result=result) as message:
                self._progress.range_tested(message)
                text = f"Range test: {result.message}"
                self._waiting.add(NewEvent(text, data={"range_test": result.model_dump()}))
            case Log() as message:
                self._progress.logged()
                self._waiting.add(NewEvent(_without_nul(message.text), level=message.level))
            case Failed() as message:
                self.failed = message.model_copy(update={"message": _without_nul(message.message)})
            case Finished() as message:
                self.finished = message
                self._progress.finished()
                self._add_health_changes()
                if message.early_stop is not None:
                    text = f"Training stopped early at step {message.steps}: {message.early_stop}"
                    self._waiting.add(
                        NewEvent(text, data={"step": message.steps, "best_step": message.best_step})
                    )

    def _add_health_changes(self) -> None:
        for change in self._progress.take_health_changes():
            finding = change.finding
            data = finding.model_dump(exclude={"code"}) | {
                "health": finding.code,
                "is_over": change.is_over,
            }
            level: Level = "info" if change.is_over else "warn"
            self._waiting.add(NewEvent(change.message, level=level, data=data))

    def _step_of(self, message: Evaluated | Sampled) -> str:
        total_steps = self._started.total_steps if self._started else "?"
        return f"Step {message.step}/{total_steps}"

    def _add_metrics(self, step: int, text: str, data: JsonObject) -> None:
        self._newest_step = step
        self._waiting.add(NewEvent(text, type="metrics", data=data))
        self._on_metrics(step, data)


def _without_nul(value: Any) -> Any:
    """Return JSON with another character for NUL, which a model may answer and Postgres does not
    keep.
    """
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case list():
            return [_without_nul(inner) for inner in value]
        case dict():
            return {name: _without_nul(inner) for name, inner in value.items()}
    return value


def _start_event(message: Started) -> NewEvent:
    data = message.model_dump(exclude={"type"})
    if message.start_step:
        text = (
            f"Training continues from step {message.start_step} of {message.total_steps} "
            f"on {message.device}"
        )
        return NewEvent(text, data=data)
    text = (
        f"Training started: {message.total_steps} steps over {message.num_records} records "
        f"on {message.device}"
    )
    if message.num_validation_records:
        text += f"; {message.num_validation_records} more check the model"
    if message.num_truncated_records:
        num_cut = message.num_truncated_records
        text += f"; {num_cut} records are longer than the recipe allows and are cut"
    if message.num_examples > message.num_records:
        text += f"; they become {message.num_examples} sequences"
    return NewEvent(text, data=data)
