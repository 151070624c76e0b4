"""Events are numbered per job without gaps: the number comes from the job's own row, locked by the
same transaction.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sqlalchemy import insert, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app import counters
from app.database import UNSYNCED, after_commit
from app.models import Event, Job
from app.models.base import JsonObject
from app.webhooks import events as webhooks

Level = Literal["info", "warn", "error"]


class NewEvent(NamedTuple):
    """An event that has no number yet."""

    message: str
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
    """Number and add events, and set `values` on the job, if every `guard` holds; False and nothing
    written otherwise.

    Every change of a job's status passes here, so here it also becomes known to webhooks,
    and is counted.
    """
    statement = (
        update(Job)
        .where(Job.id == job_id, *guard)
        .values(last_event_seq=Job.last_event_seq + len(events), **values)
        .returning(Job.last_event_seq, Job.attempt, Job.project_id, Job.status)
    )
    row = session.execute(statement, execution_options=UNSYNCED).one_or_none()
    if row is None:
        return False
    last, attempt, project_id, status = row
    first = last - len(events) + 1
    if events:
        session.execute(
            insert(Event),
            [
                {"job_id": job_id, "seq": first + i, "attempt": attempt, **event._asdict()}
                for i, event in enumerate(events)
            ],
        )
    if "status" in values:
        webhooks.record(session, project_id, job_id, status)
        after_commit(session, counters.JOB_CHANGES.labels(status).inc)
    return True
