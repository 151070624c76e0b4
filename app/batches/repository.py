"""Batches and the answers that they have so far. Free of the web framework."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, insert_or, now_plus
from app.models import Batch, BatchAnswer, OperationStatus

# A client without an idempotency key retries within this time.
REPEAT_SECONDS = 600


class Stop(NamedTuple):
    """Reasons to ask no more."""

    is_cancelled: bool
    is_expired: bool


class LineAnswer(NamedTuple):
    """Answer to a line, or the reason why it has none."""

    batch_id: str
    line: int
    has_failed: bool
    content: str


def find(session: Session, project_id: str, batch_id: str) -> Batch | None:
    statement = select(Batch).where(Batch.id == batch_id, Batch.project_id == project_id)
    return session.scalars(statement).one_or_none()


def newest_first(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> list[Batch]:
    """Return the newest first, at most one more than `limit`."""
    statement = select(Batch).where(Batch.project_id == project_id)
    if after is not None:
        statement = statement.where(Batch.id < after)
    return list(session.scalars(statement.order_by(Batch.id.desc()).limit(limit + 1)))


def find_by_key(session: Session, project_id: str, idempotency_key: str) -> Batch | None:
    mine = (Batch.project_id == project_id, Batch.idempotency_key == idempotency_key)
    return session.scalars(select(Batch).where(*mine)).one_or_none()


def find_recent(session: Session, project_id: str, key_id: str, file_id: str) -> Sequence[Batch]:
    """Return the batches of a file that a key has just created."""
    return session.scalars(
        select(Batch).where(
            Batch.project_id == project_id,
            Batch.input_file_id == file_id,
            Batch.key_id == key_id,
            Batch.created_at > now_plus(-REPEAT_SECONDS),
        )
    ).all()


def cancel(session: Session, project_id: str, batch_id: str) -> bool:
    """Ask the worker to stop; return False for a batch that has ended."""
    statement = (
        update(Batch)
        .where(
            Batch.id == batch_id,
            Batch.project_id == project_id,
            Batch.status == OperationStatus.IN_PROGRESS,
        )
        .values(cancelling_at=func.coalesce(Batch.cancelling_at, now_plus()))
        .returning(Batch.id)
    )
    return session.scalar(statement, execution_options=UNSYNCED) is not None


def read_stop(session: Session, batch_id: str) -> Stop:
    columns = (Batch.cancelling_at.is_not(None), Batch.expires_at <= now_plus())
    return Stop(*session.execute(select(*columns).where(Batch.id == batch_id)).one())


def add_answers(session: Session, answers: Sequence[LineAnswer]) -> None:
    """Add answers; those of a commit whose result was lost are there already."""
    if answers:
        rows = [answer._asdict() for answer in answers]
        session.execute(insert_or(session, BatchAnswer).on_conflict_do_nothing(), rows)


def answered_lines(session: Session, batch_id: str) -> set[int]:
    return set(session.scalars(select(BatchAnswer.line).where(BatchAnswer.batch_id == batch_id)))


def answers_between(
    session: Session, batch_id: str, first: int, last: int
) -> dict[int, BatchAnswer]:
    """Return the answers to some of the lines."""
    lines = BatchAnswer.line.between(first, last)
    rows = session.scalars(select(BatchAnswer).where(BatchAnswer.batch_id == batch_id, lines))
    return {row.line: row for row in rows}


def remove_answers(session: Session, batch_id: str) -> None:
    statement = delete(BatchAnswer).where(BatchAnswer.batch_id == batch_id)
    session.execute(statement, execution_options=UNSYNCED)
