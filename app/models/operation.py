from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class OperationStatus(StrEnum):
    IN_PROGRESS = "in_progress"  # a worker holds it until `lease_expires_at`
    COMPLETED = "completed"
    FAILED = "failed"


class Operation(Base):
    """Background work other than training; subclasses add the columns of their kind.
    `app.operations.claims` claims and ends it.
    """

    __abstract__ = True
    noun: ClassVar[str]  # the API's word for one operation of this kind

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)  # the newest one's number fences its writes
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    lease_expires_at: Mapped[datetime | None]
    notified_at: Mapped[datetime | None]  # latest notification of the workers
