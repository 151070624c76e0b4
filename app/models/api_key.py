from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt
from app.models.usage_day import Dollars


class Scope(StrEnum):
    METRICS = "metrics"  # reads /metrics, and nothing else
    INFER = "infer"  # inference, and nothing else
    READ = "read"
    AGENT = "agent"  # also uploads, trains up to a budget a day, and evaluates
    WRITE = "write"
    ADMIN = "admin"


class ApiKey(Base):
    """Key of a project. A sign-in through the identity provider is one, too, for each project that
    the person may use: without a secret that anybody knows, and expiring with the session.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    # Person that it belongs to; null: a key of the project.
    user_id: Mapped[str | None] = mapped_column(index=True)
    # Keys of one sign-in share it; null: a key with a secret.
    sign_in_id: Mapped[str | None] = mapped_column(index=True)
    name: Mapped[str]
    scope: Mapped[str]
    secret_sha256: Mapped[str] = mapped_column(unique=True)
    daily_budget_usd: Mapped[Decimal | None] = mapped_column(Dollars)  # of an agent alone
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # rounded to the minute
