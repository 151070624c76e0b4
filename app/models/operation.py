from datetime import datetime
from enum import StrEnum

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CreatedAt


class OperationStatus(StrEnum):
    IN_PROGRESS = "in_progress"  # asked for; a worker holds it while `claimed_at` is fresh
    COMPLETED = "completed"
    FAILED = "failed"


class Operation:
    """What a user has asked a cpu worker for, besides what is particular to its kind. `app.operations.claims` takes and ends it."""

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(index=True)
    tries: Mapped[int] = mapped_column(default=0)  # the newest one's number is the fencing token
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    claimed_at: Mapped[datetime | None]
