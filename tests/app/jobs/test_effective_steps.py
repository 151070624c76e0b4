import pytest

from app.attempts.metrics_file import read_steps
from app.client.jobs.watched import Watched
from app.jobs import claims, history, listing, metrics, repository
from app.jobs.claims import Claim
from app.jobs.effective_steps import effective_steps
from app.jobs.events import NewEvent
from app.models import Event
from tests.support.backend import Backend

# (first step - 1, last step) of each attempt; None: it never came to its training
ATTEMPTS = [(0, 8), (5, 7), (None, 0), (5, 6), (6, 9)]
EFFECTIVE = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 4, 7: 5, 8: 5, 9: 5}  # attempt by step


def attempt(backend: Backend, start: int | None, end: int) -> None:
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
        claim = Claim(job.id, job.attempt, "w")
        if start is not None:
            claims.update_attempt(session, claim, start_step=start)
        for step in range((start or 0) + 1, end + 1):
            sample = {"prompt": "p", "expected": "e", "completion": str(job.attempt)}
            events = [
                NewEvent("", type="metrics", data={"step": step, "train_loss": float(job.attempt)}),
                NewEvent("", data={"step": step, "samples": [sample]}),
            ]
            claims.append_events(session, claim, events)
        ended = NewEvent("ended")
        claims.release(session, claim, ended, counts_as_failure=False, max_infra_failures=9)


def as_sent(event: Event) -> dict[str, object]:
    return {"type": event.type, "message": event.message, "data": event.data}


def test_the_same_steps_count_wherever_a_job_is_shown(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_EVALUATIONS", 100)
    job_id = backend.add_job()
    for start, end in ATTEMPTS:
        attempt(backend, start, end)
    job = backend.job(job_id)
    watched = Watched({})
    with backend.database.read() as session:
        events = repository.events_after(session, job_id, after=0, limit=1000)
        effective = effective_steps(session, [job_id])[job_id]
        series = metrics.series(session, job, ["train_loss"], 100)["train_loss"]
        sparkline = listing.sparklines(session, [job], len(events))[job_id]
        steps = read_steps(session, job_id)
        (prompt,) = history.list_prompts(events, effective)
    for event in events:
        watched.take(as_sent(event))
    assert dict(series) == EFFECTIVE
    assert dict(sparkline) == EFFECTIVE
    assert {step: values["train_loss"] for step, values in steps.items()} == EFFECTIVE
    assert {step: int(text) for step, text in prompt.completions} == EFFECTIVE
    assert watched.losses == EFFECTIVE


def test_steps_that_a_new_attempt_has_not_reached_do_not_count(backend: Backend) -> None:
    job_id = backend.add_job()
    attempt(backend, 0, 8)
    attempt(backend, 5, 6)
    with backend.database.read() as session:
        series = metrics.series(session, backend.job(job_id), ["train_loss"], 100)["train_loss"]
        assert list(read_steps(session, job_id)) == [1, 2, 3, 4, 5, 6]
    assert series == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0), (6, 2.0)]
