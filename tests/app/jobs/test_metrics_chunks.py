"""Whoever reads events and metrics gets the same, however they are stored."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from app.jobs import claims, listing, metrics, metrics_csv, repository
from app.jobs.claims import Claim
from app.jobs.events import NewEvent, fold
from app.jobs.metrics_chunks import window_of
from app.models import Attempt, Event, Job
from tests.support.backend import Backend

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STEPS = 300  # of two attempts, the second from step 100
BEGINS = {1: 0, 2: 100}
EVERY = 40  # steps, an evaluation, and a message some steps later


def written(job_id: str) -> list[Event]:
    """Every kind of event, each in a row of its own."""
    events: list[Event] = []

    def add(attempt: int, type_: str, message: str, data: dict[str, Any] | None = None) -> None:
        seq = len(events) + 1
        event = Event(job_id=job_id, seq=seq, attempt=attempt, level="info", type=type_)
        event.message, event.data = message, data
        event.created_at = START + timedelta(seconds=seq // 5)
        events.append(event)

    for attempt, (begins, ends) in enumerate([(0, 120), (BEGINS[2], STEPS)], 1):
        add(attempt, "message", "began", {"attempt": attempt, "worker": "w"})
        for step in range(begins + 1, ends + 1):
            data = {"step": step, "total_steps": STEPS, "train_loss": attempt + 1 / step}
            if step % 3:
                data |= {"cost_accrued": None, "mfu": None} if step % 2 else {"mfu": 0.5}
            add(attempt, "metrics", f"Step {step}", data)
            if step % EVERY == 0:
                add(attempt, "metrics", f"Step {step}", {"step": step, "valid_loss": 2.0 + step})
            if step % EVERY == 7:
                add(attempt, "message", "between")
    add(2, "message", "ended")
    return events


def read_all(backend: Backend, job_id: str) -> dict[str, object]:
    """What every reader gets."""
    columns = ("seq", "attempt", "level", "type", "message", "data", "created_at")

    def values(events: list[Event]) -> list[tuple[object, ...]]:
        return [tuple(getattr(event, name) for name in columns) for event in events]

    with backend.database.read() as session:
        job = session.get_one(Job, job_id)
        last = job.last_event_seq
        pages = [
            values(repository.events_after(session, job_id, after=after, limit=limit))
            for limit in (1, 30, 250)
            for after in range(0, last + 1, 29)
        ]
        pages += [
            values(repository.events_before(session, job_id, before=before, limit=limit))
            for limit in (1, 30, 250)
            for before in (None, *range(1, last + 1, 29))
        ]
        return {
            "pages": pages,
            "metrics": list(repository.metrics(session, job_id)),
            "valid_loss": repository.metric(session, job_id, "valid_loss"),
            "steps": [
                repository.step_before(session, job_id, seq) for seq in range(1, last + 2, 11)
            ],
            "steps of attempts": repository.steps_before(
                session, job_id, {attempt: attempt * last // 3 for attempt in (1, 2, 3)}
            ),
            "newest": repository.newest_metrics_step(session, job_id),
            "series": metrics.series(session, job, metrics.KEYS, 100),
            "csv": b"".join(metrics_csv.write_all(backend.database, job_id)),
        }


def chunks(backend: Backend, job_id: str) -> list[Event]:
    of_job = select(Event).where(Event.job_id == job_id, Event.type != "message")
    with backend.database.read() as session:
        return list(session.scalars(of_job.order_by(Event.seq)))


def test_chunks_read_as_the_events_that_they_hold(backend: Backend) -> None:
    job_id = backend.add_job()
    events = written(job_id)
    backend.set(job_id, attempt=2, last_event_seq=len(events))
    with backend.database.transaction() as session:
        for number, begins in BEGINS.items():
            attempt = Attempt(job_id=job_id, number=number, worker="w", device="cpu")
            attempt.num_devices, attempt.start_step = 1, begins
            session.add(attempt)
        session.add_all(events)
    own_rows = read_all(backend, job_id)
    with backend.database.transaction() as session:
        for window in {window_of(event.seq) for event in events}:
            fold(session, job_id, window)
    assert read_all(backend, job_id) == own_rows

    with backend.database.read() as session:
        job = session.get_one(Job, job_id)
        curves = [listing.sparklines(session, [job], count)[job_id] for count in (32, 200)]
        losses = metrics.series(session, job, ["train_loss"], 10 * STEPS)["train_loss"]
    windows = {(event.attempt, window_of(event.seq)) for event in events if event.type == "metrics"}
    assert len(chunks(backend, job_id)) == len(windows)
    for curve, num_points in zip(curves, (32, 200), strict=True):
        assert len(curve) == num_points
        assert set(curve) <= set(losses)
        assert [curve[0], curve[-1]] == [losses[0], losses[-1]]


def test_batches_of_a_window_become_one_row_when_it_is_full_and_when_the_attempt_ends(
    backend: Backend,
) -> None:
    job_id = backend.add_job()
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
    claim = Claim(job_id, job.attempt, "w")
    step = 0
    num_rows = []
    for size in [1, 7, 150, 1, 60, 3, 450, 20]:
        steps = [NewEvent("", type="metrics", data={"step": step + n}) for n in range(1, size + 1)]
        step += size
        with backend.database.transaction() as session:
            claims.append_events(session, claim, [*steps, NewEvent("")])
        num_rows.append(len(chunks(backend, job_id)))
    assert num_rows == [1, 2, 3, 4, 2, 3, 4, 5]
    with backend.database.transaction() as session:
        again = NewEvent("again")
        claims.release(session, claim, again, counts_as_failure=False, max_infra_failures=3)
    rows = chunks(backend, job_id)
    ends = [(row.first_seq, row.seq) for row in rows]
    assert ends == [(2, 200), (201, 400), (401, 600), (601, 700)]
    with backend.database.read() as session:
        steps_of_job = [data["step"] for _, data in repository.metrics(session, job_id)]
    assert steps_of_job == list(range(1, step + 1))
