from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up


class WebhookDelivery(Base):
    """Delivery of one event to one endpoint; a pending row is its own outbox. `event_id` stays the
    same when it is sent again.

    `attempts` is the fencing token: a sender raises it first, and records the outcome only while
    the row still has that number.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_endpoint_id_id", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_status_due_at", "status", "due_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    event_type: Mapped[str]
    event_at: Mapped[CreatedAt]
    job_id: Mapped[str]  # or the batch, or the model; empty: the event is about the project
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    # Next attempt of a pending one; while it is being sent, the end of its lease.
    due_at: Mapped[datetime | None]
    attempted_at: Mapped[datetime | None]
    status_code: Mapped[int | None]  # last response of the endpoint; null while it is being sent
    error: Mapped[str | None]  # reason of the last failure; null while it is being sent
    created_at: Mapped[CreatedAt]
