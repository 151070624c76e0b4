"""Leases of operations of one kind, one project after the other, and their outcomes: each a single
guarded statement. The number of attempts is the fencing token.
"""

from collections.abc import Collection
from typing import TypeVar

from sqlalchemy import or_, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.base.database import UNSYNCED, now_plus
from app.models.operation import Operation, OperationStatus
from app.operations import leases

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
    conditions = (*is_waiting(kind), kind.project_id.not_in(without))
    order = ((kind.project_id > after).desc(), kind.project_id, kind.id)
    return leases.claim_first(session, kind, conditions, order, lease_seconds)


def renew(session: Session, operation: Operation, lease_seconds: float) -> bool:
    """Extend the lease. Return False when it is lost, as do all functions below."""
    return write(session, operation, lease_expires_at=now_plus(lease_seconds))


def release(session: Session, operation: Operation) -> bool:
    """Leave it to others as if this attempt had never been."""
    return write(session, operation, lease_expires_at=None, attempt=operation.attempt - 1)


def complete(session: Session, operation: Operation, **values: object) -> bool:
    return write(session, operation, status=OperationStatus.COMPLETED, **values)


def fail(session: Session, operation: Operation, code: str, message: str, **values: object) -> bool:
    error = {"error_code": code, "error_message": message}
    return write(session, operation, status=OperationStatus.FAILED, **error, **values)


def write(session: Session, operation: Operation, **values: object) -> bool:
    """Set columns, unless the lease is lost."""
    kind = type(operation)
    is_mine = (*leases.is_attempt(operation), kind.status == OperationStatus.IN_PROGRESS)
    return leases.execute(session, kind, update(kind).where(*is_mine).values(**values))


def restart(session: Session, operation: Operation, id_: str) -> None:
    """Restart an ended operation under another id: a fenced-out worker has the number of a future
    attempt, and the storage has its keys.
    """
    kind = type(operation)
    values = {
        "id": id_,
        "status": OperationStatus.IN_PROGRESS,
        "attempt": 0,
        "error_code": None,
        "error_message": None,
        "lease_expires_at": None,
        "notified_at": None,
    }
    has_ended = (kind.id == operation.id, kind.status != OperationStatus.IN_PROGRESS)
    session.execute(update(kind).where(*has_ended).values(**values), execution_options=UNSYNCED)
