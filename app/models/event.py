from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject

CHUNK = "chunk"
WINDOW = 200  # numbers: 1 to 200, 201 to 400 and so on. A chunk lies in one


class Event(Base):
    """Event of a job, numbered without gaps; the number comes from the job row, in the transaction
    that adds the event.

    Metrics of many steps share a row, a chunk, which stands at the number of its last event
    (`app/jobs/metrics_chunks.py`).
    """

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    level: Mapped[str]
    type: Mapped[str]  # message | metrics | chunk
    message: Mapped[str]
    data: Mapped[JsonObject | None]
    created_at: Mapped[CreatedAt]
    # For a chunk: the number of its first event, and its curve in few points.
    first_seq: Mapped[int | None]
    outline: Mapped[JsonObject | None]
