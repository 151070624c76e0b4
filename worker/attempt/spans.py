"""The trace of one attempt: a child of the request that the job came with."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from app.attempts.values import Verdict
from app.base.tracing import context_of
from app.models import Job
from falqon_core.contract.messages import (
    AnyMessage,
    CheckpointSaved,
    Evaluated,
    Exported,
    Merged,
    Sampled,
    Started,
    StepMetrics,
    TrainerMessage,
)

# The work that the trainer has done when it sends a message, since the message before.
PHASES: dict[type[TrainerMessage], str] = {
    Started: "load",
    Evaluated: "evaluate",
    Sampled: "sample",
    CheckpointSaved: "checkpoint",
    Merged: "merge",
    Exported: "export",
}
FAILED_VERDICTS = {Verdict.FAILED, Verdict.LOST, None}
_tracer = trace.get_tracer("falqon.worker")


def attempt_span(job: Job, worker: str, device: str) -> AbstractContextManager[Span]:
    attributes: dict[str, str | int] = {
        "falqon.job.id": job.id,
        "falqon.project.id": job.project_id,
        "falqon.attempt": job.attempt,
        "falqon.worker": worker,
        "falqon.device": device,
    }
    return part_span("attempt", context_of(job.traceparent), attributes)


def end_attempt(span: Span, verdict: Verdict | None) -> None:
    """Write on its span how an attempt ended. None: its lease was lost."""
    span.set_attribute("falqon.verdict", verdict or "lease_lost")
    if verdict in FAILED_VERDICTS:
        span.set_status(Status(StatusCode.ERROR))


def part_span(
    name: str, parent: Context | None = None, attributes: Mapping[str, str | int] | None = None
) -> AbstractContextManager[Span]:
    """Return a span for a part of the attempt. What is raised in it is for the log: most of it is
    no error, and its words may quote data.
    """
    return _tracer.start_as_current_span(
        name, parent, attributes=attributes, record_exception=False, set_status_on_exception=False
    )


class TrainerSpans:
    """Makes spans of what the trainer sends, which knows of no trace; they are children of the span
    in which this is made.
    """

    def __init__(self) -> None:
        self._context = context.get_current()
        self._phase_began = time.time_ns()
        self._steps: Span | None = None
        self._last_step_at = 0

    def add(self, message: AnyMessage) -> None:
        if isinstance(message, StepMetrics):
            self._add_step(message)
        elif (name := PHASES.get(type(message))) is not None:
            self.end_steps()
            self._start(name).end()
            self._phase_began = time.time_ns()

    def end_steps(self) -> None:
        """End the span of the steps since the last evaluation or checkpoint, if there were any."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.end(self._last_step_at)
            self._phase_began = self._last_step_at

    def _add_step(self, message: StepMetrics) -> None:
        if self._steps is None:
            self._steps = self._start("steps")
            self._steps.set_attribute("falqon.first_step", message.step)
        self._steps.set_attribute("falqon.last_step", message.step)
        self._last_step_at = time.time_ns()

    def _start(self, name: str) -> Span:
        return _tracer.start_span(name, self._context, start_time=self._phase_began)
