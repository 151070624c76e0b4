from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class Submission(Base):
    """How a job was asked for, so that asking again finds it. The primary key decides between two
    that ask at the same moment.
    """

    __tablename__ = "submissions"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)  # the caller's own, or API key and digest
    request_sha256: Mapped[str]
    # Written before the job, in its transaction.
    job_id: Mapped[str] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"), index=True
    )
    created_at: Mapped[CreatedAt]
