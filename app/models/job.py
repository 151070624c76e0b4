from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject


class JobStatus(StrEnum):
    """What is true now. `app.jobs.lifecycle` holds the transitions."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Desired(StrEnum):
    """What the user wants, beside the status; read by the worker with each heartbeat."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_project_id_id", "project_id", "id"),
        Index("ix_jobs_project_id_status_id", "project_id", "status", "id"),
        Index("ix_jobs_project_id_base_model_id_id", "project_id", "base_model_id", "id"),
        Index(
            "ix_jobs_without_metadata", "project_id", "id", sqlite_where=text("metadata IS NULL"), postgresql_where=text("metadata IS NULL")
        ),
        Index("ix_jobs_status_id", "status", "id"),
        # For files in use; with the project and the id, jobs are counted without a look at the table.
        Index("ix_jobs_training_file_id_status_project_id_id", "training_file_id", "status", "project_id", "id"),
        Index("ix_jobs_validation_file_id_status_project_id_id", "validation_file_id", "status", "project_id", "id"),
        Index("ix_jobs_queue", "status", "project_id", "desired", text("priority DESC"), "id", "not_before"),
        CheckConstraint("(lease_owner IS NULL) = (lease_expires_at IS NULL)", name="lease_is_whole"),
        CheckConstraint("lease_owner IS NULL OR status = 'running'", name="only_running_is_leased"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str]
    desired: Mapped[str]
    priority: Mapped[int] = mapped_column(default=0)  # among the queued jobs of its project, higher first

    base_model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    base_checkpoint_id: Mapped[str | None] = mapped_column(
        index=True
    )  # of a job with that base model, whose training this one continues from
    training_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    validation_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    suffix: Mapped[str | None]
    requested: Mapped[JsonObject]  # the request body as it came
    recipe: Mapped[JsonObject | None]  # what really runs; set once the files are checked, with every "auto" resolved
    estimate: Mapped[JsonObject | None]  # the one given at submission
    actual: Mapped[JsonObject | None]  # beside it, once the job has succeeded
    budget: Mapped[JsonObject | None]  # an `app.jobs.falqon_options.Budget`
    job_metadata: Mapped[JsonObject | None] = mapped_column("metadata")

    attempt: Mapped[int] = mapped_column(default=0)  # executions so far; the newest one's number is the fencing token
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    infra_failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]  # after a lost execution, when the next one may begin
    last_event_seq: Mapped[int] = mapped_column(default=0)
    progress: Mapped[JsonObject | None]  # step, eta and cost as last reported
    device_seconds: Mapped[float] = mapped_column(default=0.0)  # of all attempts, as last reported
    execution_seconds: Mapped[float] = mapped_column(default=0.0)  # the same, however many devices an attempt has
    paused_reason: Mapped[str | None]

    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    fine_tuned_model_id: Mapped[str | None]
    result_file_id: Mapped[str | None]  # the metrics of every step as CSV

    created_at: Mapped[CreatedAt]
    rung_at: Mapped[datetime | None]  # when a worker was last told to look
    started_at: Mapped[datetime | None]  # of the first attempt
    finished_at: Mapped[datetime | None]
