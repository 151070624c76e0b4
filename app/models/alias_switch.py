from datetime import date, datetime
from enum import StrEnum

from pydantic import BaseModel
from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.alias import AliasTargets
from app.models.base import Base, CreatedAt, PydanticType


class SwitchStatus(StrEnum):
    EVALUATING = "evaluating"
    CANARY = "canary"  # a share of the requests goes to the new model
    SWITCHED = "switched"
    KEPT = "kept"  # the name was left as it was
    ROLLED_BACK = "rolled_back"  # the canary failed, and the name stands for what it stood for


class RequestCount(BaseModel):
    """Requests of a model under a name."""

    requests: int = 0
    errors: int = 0

    def __add__(self, other: "RequestCount") -> "RequestCount":
        return RequestCount(
            requests=self.requests + other.requests, errors=self.errors + other.errors
        )

    def __sub__(self, other: "RequestCount") -> "RequestCount":
        return RequestCount(
            requests=self.requests - other.requests, errors=self.errors - other.errors
        )


class CanaryStart(BaseModel):
    """State in which a canary begins: the targets to go back to, and the requests of the day up to
    then by model.
    """

    version: int  # the version of the name that has the canary
    before: AliasTargets
    day: date
    counts: dict[str, RequestCount]


class AliasSwitch(Base):
    """Move of a name to a new model, if an evaluation finds that model not worse."""

    __tablename__ = "alias_switches"
    __table_args__ = (
        Index("ix_alias_switches_status", "status"),
        Index("ix_alias_switches_evaluation_id", "evaluation_id"),
        Index("ix_alias_switches_project_id_alias_id", "project_id", "alias", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    alias: Mapped[str]
    alias_version: Mapped[int]  # the version that the evaluation compares with
    model_id: Mapped[str]
    job_id: Mapped[str]  # of the model; no foreign key: a canary goes on without the job
    evaluation_id: Mapped[str | None]  # null: none could begin
    canary_percent: Mapped[int | None]
    canary_start: Mapped[CanaryStart | None] = mapped_column(PydanticType(CanaryStart))
    status: Mapped[str]
    reason: Mapped[str | None]
    key_id: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None]
