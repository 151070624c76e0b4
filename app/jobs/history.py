"""History of a job: its attempts with the steps each repeated, and the answers of its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.effective_steps import EffectiveSteps, effective_steps
from app.jobs.readings import step_of
from app.models import Attempt, Event, Job
from app.models.job_progress import JobProgress
from falqon_core.contract.messages import Sample

_samples = TypeAdapter(list[Sample])
MAX_EVALUATIONS = 6  # side by side; the first, the last, and some between them


@dataclass(frozen=True, slots=True)
class AttemptSpan:
    """Steps of one attempt, from `start` (exclusive) to `end`; None before it has begun.
    `repeated`: how many of them an earlier attempt had done. `log`: the end of its trainer's log,
    if that failed.
    """

    attempt: Attempt
    start: int | None
    end: int | None
    repeated: int
    log: str


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """Prompt with `completions`: (step, text), as the training went on."""

    prompt: str
    expected: str
    completions: list[tuple[int, str]]


def list_spans(session: Session, job: Job, messages: Sequence[Event]) -> list[AttemptSpan]:
    """List the steps of each attempt. `messages`: the newest of the job, which contain the starts
    of attempts; of an older attempt the steps are known only up to the next one's start.
    """
    began = {
        event.attempt: event.seq for event in messages if event.data and "worker" in event.data
    }
    logs = {
        event.attempt: log
        for event in messages
        if event.data and isinstance(log := event.data.get("trainer_log"), str)
    }
    spans: list[AttemptSpan] = []
    reached = 0
    attempts = repository.attempts(session, [job.id])[job.id]
    bounds: dict[int, int] = {}
    if attempts and job.events_removed_at is None:
        bounds = {number - 1: seq for number, seq in began.items() if number > 1}
        bounds[attempts[-1].number] = job.last_event_seq + 1
    steps = repository.steps_before(session, job.id, bounds) if bounds else {}
    for attempt, following in zip_longest(attempts, attempts[1:]):
        if attempt.number in bounds:
            last = steps.get(attempt.number)
        else:  # a lower bound
            last = following.start_step if following else (job.progress or JobProgress()).step
        end = None if attempt.start_step is None else max(attempt.start_step, last or 0)
        repeated = 0 if attempt.start_step is None else max(0, reached - attempt.start_step)
        log = logs.get(attempt.number, "")
        spans.append(AttemptSpan(attempt, attempt.start_step, end, repeated, log))
        reached = max(reached, end or 0)
    return spans


def list_prompts(messages: Sequence[Event], effective: EffectiveSteps) -> list[SamplePrompt]:
    """List every validation prompt with the model's answers at the effective evaluations."""
    samples_by_step = {
        step: samples
        for event in sorted(messages, key=lambda event: event.seq)
        if (samples := _samples_of(event))
        and (step := step_of(event.data)) is not None
        and effective.include(event.attempt, step)
    }
    prompts: dict[str, SamplePrompt] = {}
    for step in _spread(sorted(samples_by_step)):
        for sample in samples_by_step[step]:
            prompt = prompts.setdefault(
                sample.prompt, SamplePrompt(sample.prompt, sample.expected, [])
            )
            prompt.completions.append((step, sample.completion))
    return list(prompts.values())


def _samples_of(event: Event) -> list[Sample]:
    try:
        return _samples.validate_python((event.data or {}).get("samples", []))
    except ValidationError:
        return []


def list_validation_losses(session: Session, job: Job) -> list[tuple[int, float]]:
    """List (step, loss) of the effective evaluations, by rising step."""
    effective = effective_steps(session, [job.id])[job.id]
    losses = {
        step: loss
        for attempt, step, loss in repository.metric(session, job.id, "valid_loss")
        if effective.include(attempt, step)
    }
    return sorted(losses.items())


def _spread(steps: list[int]) -> list[int]:
    if len(steps) <= MAX_EVALUATIONS:
        return steps
    return [
        steps[round(i * (len(steps) - 1) / (MAX_EVALUATIONS - 1))] for i in range(MAX_EVALUATIONS)
    ]
