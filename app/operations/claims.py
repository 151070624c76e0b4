"""Leases of operations of one kind, one project after the other, and their outcomes: each a single
guarded statement. The number of attempts is the fencing token.
"""

from collections.abc import Collection
from typing import TypeVar

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.base.database import UNSYNCED, now_plus
from app.models.operation import Operation, OperationStatus

T = TypeVar("T", bound=Operation)


def is_waiting(kind: type[Operation]) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a worker may take an operation."""
    is_free = or_(kind.lease_expires_at.is_(None), kind.lease_expires_at < now_plus())
    return kind.status == OperationStatus.IN_PROGRESS, is_free


def claim(
    session: Session,
    kind: type[T],
    lease_seconds: float,
    *,
    after: str = "",
    without: Collection[str] = (),
) -> T | None:
    """Claim an operation without a worker, or whose worker has been silent for too long: the oldest
    of the project that comes `after` the one with the previous turn, in a circle `without` some.
    """
    is_allowed = (*is_waiting(kind), kind.project_id.not_in(without))
    next_id = (
        select(kind.id)
        .where(*is_allowed)
        .order_by((kind.project_id > after).desc(), kind.project_id, kind.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(kind)
        .where(kind.id == next_id, *is_waiting(kind))
        .values(lease_expires_at=now_plus(lease_seconds), attempts=kind.attempts + 1)
        .returning(kind)
    )
    return session.scalars(statement, execution_options=UNSYNCED).one_or_none()


def renew(session: Session, operation: Operation, lease_seconds: float) -> bool:
    """Extend the lease. Return False when it is lost, as do all functions below."""
    return write(session, operation, lease_expires_at=now_plus(lease_seconds))


def release(session: Session, operation: Operation) -> bool:
    """Release it to other workers as if this attempt had never been."""
    return write(session, operation, lease_expires_at=None, attempts=operation.attempts - 1)


def complete(session: Session, operation: Operation, **values: object) -> bool:
    return write(session, operation, status=OperationStatus.COMPLETED, **values)


def fail(session: Session, operation: Operation, code: str, message: str) -> bool:
    error = {"error_code": code, "error_message": message}
    return write(session, operation, status=OperationStatus.FAILED, **error)


def write(session: Session, operation: Operation, **values: object) -> bool:
    """Set columns, unless the lease is lost."""
    kind = type(operation)
    is_mine = (
        kind.id == operation.id,
        kind.status == OperationStatus.IN_PROGRESS,
        kind.attempts == operation.attempts,
    )
    statement = update(kind).where(*is_mine).values(**values).returning(kind.id)
    return session.scalar(statement, execution_options=UNSYNCED) is not None


def restart(session: Session, operation: Operation, id_: str) -> None:
    """Restart an ended operation under another id: a fenced-out worker has the number of a future
    attempt, and the storage has its keys.
    """
    kind = type(operation)
    values = {
        "id": id_,
        "status": OperationStatus.IN_PROGRESS,
        "attempts": 0,
        "error_code": None,
        "error_message": None,
        "lease_expires_at": None,
        "notified_at": None,
    }
    has_ended = (kind.id == operation.id, kind.status != OperationStatus.IN_PROGRESS)
    session.execute(update(kind).where(*has_ended).values(**values), execution_options=UNSYNCED)
