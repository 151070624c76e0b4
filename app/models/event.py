from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject


class Event(Base):
    """What happened to a job, numbered without gaps; the number comes from the job row, in the
    transaction that adds the event.
    """

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    level: Mapped[str]
    type: Mapped[str]  # message | metrics
    message: Mapped[str]
    data: Mapped[JsonObject | None]
    created_at: Mapped[CreatedAt]
