"""Events of a job, numbered without gaps: the number comes from the job's own row, locked by the
same transaction.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.base import counters
from app.base.database import UNSYNCED, after_commit, now_plus
from app.jobs.metrics_chunks import pack, unpack, window_of
from app.models import Event, Job, JobStatus
from app.models.base import JsonObject
from app.models.event import CHUNK, WINDOW
from app.webhooks import events as webhooks
from falqon_core.contract.figures import Text

Level = Literal["info", "warn", "error"]
COLUMNS = tuple(Event.__table__.columns.keys())


class NewEvent(NamedTuple):
    """Event that has no number yet."""

    message: Text
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: JsonObject | None = None


def append(
    session: Session,
    job_id: str,
    events: Sequence[NewEvent],
    *,
    guard: Sequence[ColumnElement[bool]] = (),
    **values: object,
) -> bool:
    """Number and add events, and set `values` on the job, if every `guard` holds; otherwise return
    False and write nothing.

    Every change of a job's status and health passes here, so webhooks are notified of it here, and
    that of the status is counted.
    """
    statement = (
        update(Job)
        .where(Job.id == job_id, *guard)
        .values(last_event_seq=Job.last_event_seq + len(events), **values)
        .returning(Job.last_event_seq, Job.attempt, Job.project_id, Job.status, now_plus())
    )
    row = session.execute(statement, execution_options=UNSYNCED).one_or_none()
    if row is None:
        return False
    last, attempt, project_id, status, now = row
    first = last - len(events) + 1
    _insert(
        session,
        [
            Event(job_id=job_id, seq=seq, attempt=attempt, created_at=now, **event._asdict())
            for seq, event in enumerate(events, first)
        ],
    )
    is_full = window_of(first) < window_of(last + 1)
    if is_full and window_of(first - 1) == window_of(first):  # it has earlier rows
        fold(session, job_id, window_of(first))
    if any(event.type == "message" and "health" in (event.data or {}) for event in events):
        webhooks.record(session, project_id, job_id, "health")
    if "status" in values:
        webhooks.record(session, project_id, job_id, status)
        after_commit(session, counters.JOB_CHANGES.labels(status).inc)
        if attempt and status != JobStatus.RUNNING:
            fold(session, job_id, window_of(last))
    return True


def fold(session: Session, job_id: str, window: int) -> None:
    """Fold the metrics of an attempt in a window into one row. The job's row is locked."""
    end = (window + 1) * WINDOW
    inside = (Event.job_id == job_id, Event.seq > end - WINDOW, Event.seq <= end)
    metrics = (*inside, Event.type != "message")
    rows = session.scalars(select(Event).where(*metrics).order_by(Event.seq)).all()
    if len(rows) > len({row.attempt for row in rows if row.type == CHUNK}):
        events = [event for row in rows for event in unpack(row)]
        session.execute(delete(Event).where(*metrics))
        _insert(session, events)


def _insert(session: Session, events: Sequence[Event]) -> None:
    """Add events, metrics of one attempt and window as one row."""
    rows = [event for event in events if event.type != "metrics"]
    metrics = (event for event in events if event.type == "metrics")
    groups = groupby(metrics, key=lambda event: (event.attempt, window_of(event.seq)))
    rows += (pack(list(group)) for _, group in groups)
    if rows:
        values = [{name: getattr(row, name) for name in COLUMNS} for row in rows]
        session.execute(insert(Event), values)
