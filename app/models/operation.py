from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CreatedAt
from app.models.leased import Leased


class OperationStatus(StrEnum):
    IN_PROGRESS = "in_progress"  # a worker holds it until `lease_expires_at`
    COMPLETED = "completed"
    FAILED = "failed"


class Operation(Leased):
    """Background work that is no training, besides what is particular to its kind.
    `app.operations.claims` takes and ends it.
    """

    __abstract__ = True
    noun: ClassVar[str]  # the API's word for one operation of this kind

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(index=True)
    attempt: Mapped[int] = mapped_column("attempts", default=0)  # the column's first name stays
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    notified_at: Mapped[datetime | None]  # when workers were last told to poll
