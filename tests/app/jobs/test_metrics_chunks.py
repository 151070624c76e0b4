"""Whoever reads events and metrics gets the same, however they are stored."""

from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.database import Database
from app.jobs import listing, metrics, metrics_csv, repository
from app.jobs.metrics_chunks import pack, window_of
from app.models import Attempt, Event, Job
from tests.support.backend import Backend

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STEPS = 300  # of two attempts, the second from step 100
BEGINS = {1: 0, 2: 100}
EVERY = 40  # steps, an evaluation, and a message some steps later


@pytest.fixture
def backend(tmp_path: Path, database: Database, database_url: str) -> Backend:
    return Backend(tmp_path, database, database_url)


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
            "newest": repository.newest_metrics_step(session, job_id),
            "series": metrics.series(session, job, metrics.KEYS, 100),
            "csv": b"".join(metrics_csv.write_csv(backend.database, job_id)),
        }


def share_rows(session: Session, job_id: str, events: list[Event]) -> None:
    """Put the metrics of each window and attempt into one row."""
    steps = [event for event in events if event.type == "metrics"]
    session.execute(delete(Event).where(Event.job_id == job_id, Event.type == "metrics"))
    grouped = groupby(steps, key=lambda event: (event.attempt, window_of(event.seq)))
    session.add_all(pack(list(group)) for _, group in grouped)


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
        share_rows(session, job_id, written(job_id))
    assert read_all(backend, job_id) == own_rows

    with backend.database.read() as session:
        job = session.get_one(Job, job_id)
        count = session.scalar(
            select(func.count()).where(Event.job_id == job_id, Event.type != "message")
        )
        curves = [listing.sparklines(session, [job], count)[job_id] for count in (32, 200)]
        losses = metrics.series(session, job, ["train_loss"], 10 * STEPS)["train_loss"]
    assert count == window_of(len(events)) + 2, "a row a window, two where the attempt changes"
    for curve, num_points in zip(curves, (32, 200), strict=True):
        assert len(curve) == num_points
        assert set(curve) <= set(losses)
        assert [curve[0], curve[-1]] == [losses[0], losses[-1]]
