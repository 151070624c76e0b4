"""Guarded statements on rows that a worker holds while its lease lasts: operations and engines. The
number of the attempt is the fencing token.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, SQLColumnExpression, UpdateBase, inspect, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, now_plus
from app.models.leased import Leased

T = TypeVar("T", bound=Leased)


def claim_first(
    session: Session,
    kind: type[T],
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[SQLColumnExpression[Any]],
    lease_seconds: float,
    **values: object,
) -> T | None:
    """Begin an attempt of the first row that meets the conditions, which are checked once more when
    it is taken.
    """
    (key,) = _keys_of(kind)
    first = (
        select(key)
        .where(*conditions)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(kind)
        .where(key == first, *conditions)
        .values(lease_expires_at=now_plus(lease_seconds), attempt=kind.attempt + 1, **values)
        .returning(kind)
    )
    return session.scalars(statement, execution_options=UNSYNCED).one_or_none()


def is_attempt(row: Leased) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which no later attempt has begun."""
    kind = type(row)
    is_row = (key == getattr(row, key.key) for key in _keys_of(kind))
    return *is_row, kind.attempt == row.attempt


def execute(session: Session, kind: type[Leased], statement: UpdateBase) -> bool:
    """Execute an update or a deletion of one row; False where its conditions do not hold."""
    returned = session.execute(statement.returning(*_keys_of(kind)), execution_options=UNSYNCED)
    return returned.first() is not None


def _keys_of(kind: type[Leased]) -> list[Any]:
    mapper = inspect(kind)
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return [getattr(kind, name) for name in names]
