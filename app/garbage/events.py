"""Retention of events, if the operator sets one: those of a job that ended longer ago are removed,
some at a time. The last one stays, because it states the outcome of the job and ends its streams.
"""

from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.base.database import UNSYNCED, Database, now_plus, now_plus_once
from app.models import Event, Job
from app.models.event import WINDOW

REMOVED_AT_ONCE = 2_000  # events per transaction, of each job at most
JOBS_AT_ONCE = 100  # per transaction
TRANSACTIONS_AT_ONCE = 100  # transactions per call, which is repeated some seconds later


def remove_old(database: Database, kept: timedelta | None) -> int:
    """Remove events of jobs that ended longer ago than `kept`; return how many. None keeps all."""
    if kept is None:
        return 0
    too_old = now_plus_once(-kept.total_seconds())
    old = (Job.events_removed_at.is_(None), Job.finished_at < too_old)
    count = 0
    for _ in range(TRANSACTIONS_AT_ONCE):
        with database.read() as session:
            if session.scalar(select(Job.id).where(*old).limit(1)) is None:
                break
        with database.transaction() as session:
            count += _remove_some(session, old)
    return count


def _remove_some(session: Session, old: tuple[ColumnElement[bool], ...]) -> int:
    """Remove some events of the jobs that ended first, except those locked by other processes."""
    oldest = select(Job.id, Job.last_event_seq).where(*old).order_by(Job.finished_at)
    jobs = oldest.limit(JOBS_AT_ONCE).with_for_update(skip_locked=True)
    count = 0
    for job_id, last in session.execute(jobs).all():
        if count < REMOVED_AT_ONCE:
            count += _remove_of(session, job_id, last)
    return count


def _remove_of(session: Session, job_id: str, last: int) -> int:
    # The numbers begin with 1 and have no gaps, but whole windows may be gone already.
    rest = select(Event.seq).where(Event.job_id == job_id).order_by(Event.seq).limit(1)
    first = _start_of_window(session.scalar(rest) or last)
    end = min(last, _start_of_window(first + REMOVED_AT_ONCE))
    session.execute(
        delete(Event).where(Event.job_id == job_id, Event.seq < end), execution_options=UNSYNCED
    )
    if end == last:
        session.execute(
            update(Job).where(Job.id == job_id).values(events_removed_at=now_plus()),
            execution_options=UNSYNCED,
        )
    return max(0, end - first)


def _start_of_window(seq: int) -> int:
    """Return the first number of its window: no chunk has events on both sides."""
    return seq - (seq - 1) % WINDOW
