from datetime import datetime

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class WebhookEndpoint(Base):
    """Address for a project's notifications. Its signing secret is derived, not stored: see
    `app.webhooks.signing`.
    """

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]] = mapped_column(JSON().with_variant(JSONB(), "postgresql"))
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None]
    secret_generation: Mapped[int] = mapped_column(default=1)
    secret_hint: Mapped[str]
    previous_secret_until: Mapped[datetime | None]  # end of signing by the previous generation
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
