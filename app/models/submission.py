from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class Submission(Base):
    """Request that a job came from, so that a retry finds it. The primary key decides between two
    at the same moment.
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
