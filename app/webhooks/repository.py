from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session, aliased

from app.base.database import UNSYNCED, now_plus
from app.models import DeliveryStatus, Project, WebhookDelivery, WebhookEndpoint


def lock_project(session: Session, project_id: str) -> None:
    """Lock the project, so that endpoints created at once are counted one after the other."""
    session.scalars(select(Project.id).where(Project.id == project_id).with_for_update()).one()


def count(session: Session, project_id: str) -> int:
    return session.scalars(
        select(func.count()).where(WebhookEndpoint.project_id == project_id)
    ).one()


def find(
    session: Session, project_id: str, endpoint_id: str, *, lock: bool = False
) -> WebhookEndpoint | None:
    statement = select(WebhookEndpoint).where(
        WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project_id == project_id
    )
    return session.scalars(statement.with_for_update() if lock else statement).one_or_none()


def newest_first(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> list[WebhookEndpoint]:
    statement = (
        select(WebhookEndpoint)
        .where(WebhookEndpoint.project_id == project_id)
        .order_by(WebhookEndpoint.id.desc())
        .limit(limit + 1)
    )
    return list(
        session.scalars(statement.where(WebhookEndpoint.id < after) if after else statement)
    )


def list_enabled(session: Session, project_id: str) -> list[WebhookEndpoint]:
    statement = select(WebhookEndpoint).where(
        WebhookEndpoint.project_id == project_id, WebhookEndpoint.enabled
    )
    return list(session.scalars(statement.order_by(WebhookEndpoint.id)))


def delivery(session: Session, endpoint_id: str, delivery_id: str) -> WebhookDelivery | None:
    statement = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id
    )
    return session.scalars(statement).one_or_none()


def deliveries(
    session: Session, endpoint_id: str, *, after: str | None, limit: int
) -> list[WebhookDelivery]:
    statement = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id)
    statement = statement.order_by(WebhookDelivery.id.desc()).limit(limit + 1)
    return list(
        session.scalars(statement.where(WebhookDelivery.id < after) if after else statement)
    )


def due(session: Session) -> Sequence[str]:
    """Return one delivery of each endpoint that has none in flight: the one due for longest."""
    position = func.row_number().over(
        partition_by=WebhookDelivery.endpoint_id,
        order_by=(WebhookDelivery.due_at, WebhookDelivery.id),
    )
    ranked = select(WebhookDelivery.id, position.label("position")).where(*_due()).subquery()
    return session.scalars(select(ranked.c.id).where(ranked.c.position == 1)).all()


def claim(session: Session, delivery_id: str, lease_seconds: float) -> WebhookDelivery | None:
    """Take the right to send it now; None when another process has it, or has one of the same
    endpoint.

    It comes back when its sender dies.
    """
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, *_due())
        .values(
            attempts=WebhookDelivery.attempts + 1,
            attempted_at=now_plus(),
            due_at=now_plus(lease_seconds),
            status_code=None,
            error=None,
        )
        .returning(WebhookDelivery)
    )
    return session.scalars(statement, execution_options=UNSYNCED).one_or_none()


def record(session: Session, claimed: WebhookDelivery, **values: Any) -> None:
    mine = (WebhookDelivery.id == claimed.id, WebhookDelivery.attempts == claimed.attempts)
    session.execute(
        update(WebhookDelivery).where(*mine).values(**values), execution_options=UNSYNCED
    )


def give_up_pending(session: Session, endpoint_id: str, error: str) -> None:
    pending = (
        WebhookDelivery.endpoint_id == endpoint_id,
        WebhookDelivery.status == DeliveryStatus.PENDING,
    )
    values = {"status": DeliveryStatus.FAILED, "due_at": None, "error": error}
    session.execute(
        update(WebhookDelivery).where(*pending).values(values), execution_options=UNSYNCED
    )


def _due() -> tuple[Any, ...]:
    """Return the conditions of a delivery that may be sent now."""
    return (
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.due_at <= now_plus(),
        WebhookDelivery.endpoint_id.not_in(_endpoints_in_flight()),
    )


def _endpoints_in_flight() -> Select[str]:
    """Select the endpoints that a delivery is being sent to. One that waits for its next attempt
    has an error.
    """
    sent = aliased(WebhookDelivery)
    return select(sent.endpoint_id).where(
        sent.status == DeliveryStatus.PENDING,
        sent.due_at > now_plus(),
        sent.attempts > 0,
        sent.error.is_(None),
    )
