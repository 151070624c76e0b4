"""What a job has behind it: its attempts with what each did again, and the answers its model gave on the way."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.jobs import repository
from app.models import Attempt, Event, Job
from falqon_core.contract.messages import Sample

MAX_EVALUATIONS = 6  # beside each other; the first, the last, and some between them


class Stretch(NamedTuple):
    """The steps of one attempt, from `start` (exclusive) to `end`; null before it has begun. `repeated`: that an earlier one had done."""

    attempt: Attempt
    start: int | None
    end: int | None
    repeated: int


class Prompt(NamedTuple):
    """`completions`: (step, text), as the training went on."""

    prompt: str
    expected: str
    completions: list[tuple[int, str]]


def stretches(session: Session, job: Job, messages: Sequence[Event]) -> list[Stretch]:
    """`messages`: those of the job, among them how each attempt began."""
    began = {event.data["attempt"]: event.seq for event in messages if event.data and "worker" in event.data}
    found: list[Stretch] = []
    reached = 0
    for attempt in repository.attempts(session, [job.id])[job.id]:
        next_began = began.get(attempt.number + 1, job.last_event_seq + 1)
        last = repository.step_before(session, job.id, next_began)
        end = None if attempt.start_step is None else max(attempt.start_step, last or 0)
        repeated = 0 if attempt.start_step is None else max(0, reached - attempt.start_step)
        found.append(Stretch(attempt, attempt.start_step, end, repeated))
        reached = max(reached, end or 0)
    return found


def prompts(messages: Sequence[Event]) -> list[Prompt]:
    """Every validation prompt that was asked at the evaluations of the job; a step that was done again counts once."""
    told = [event.data for event in sorted(messages, key=lambda one: one.seq) if event.data and "samples" in event.data]
    by_step = {data["step"]: data["samples"] for data in told}
    found: dict[str, Prompt] = {}
    for step in _spread(sorted(by_step)):
        for sample in (Sample.model_validate(one) for one in by_step[step]):
            prompt = found.setdefault(sample.prompt, Prompt(sample.prompt, sample.expected, []))
            prompt.completions.append((step, sample.completion))
    return list(found.values())


def _spread(steps: list[int]) -> list[int]:
    if len(steps) <= MAX_EVALUATIONS:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MAX_EVALUATIONS - 1))] for i in range(MAX_EVALUATIONS)]
