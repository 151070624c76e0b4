"""Claim operations of one kind, the oldest first, and write what becomes of them: each a single guarded statement."""

from typing import TypeVar

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models.operation import Operation, OperationStatus

T = TypeVar("T", bound=Operation)
_UNSYNCED = {"synchronize_session": False}


def claim(session: Session, kind: type[T], stale_seconds: float) -> T | None:
    """Take the oldest that nobody works on, or whose worker has been silent for so long."""
    free = (kind.status == OperationStatus.IN_PROGRESS, or_(kind.claimed_at.is_(None), kind.claimed_at < now_plus(-stale_seconds)))
    oldest = select(kind.id).where(*free).order_by(kind.id).limit(1).with_for_update(skip_locked=True).scalar_subquery()
    taken = update(kind).where(kind.id == oldest, *free).values(claimed_at=now_plus(), tries=kind.tries + 1)
    return session.scalars(taken.returning(kind), execution_options=_UNSYNCED).one_or_none()


def renew(session: Session, operation: Operation) -> bool:
    """False when it is not ours any more."""
    return write(session, operation, claimed_at=now_plus())


def release(session: Session, operation: Operation) -> None:
    """For somebody else, as if we had never tried."""
    write(session, operation, claimed_at=None, tries=operation.tries - 1)


def fail(session: Session, operation: Operation, code: str, message: str) -> None:
    write(session, operation, status=OperationStatus.FAILED, error_code=code, error_message=message)


def write(session: Session, operation: Operation, **values: object) -> bool:
    """False, and nothing is written, when it is not ours any more."""
    kind = type(operation)
    mine = (kind.id == operation.id, kind.status == OperationStatus.IN_PROGRESS, kind.tries == operation.tries)
    return session.scalar(update(kind).where(*mine).values(**values).returning(kind.id), execution_options=_UNSYNCED) is not None
