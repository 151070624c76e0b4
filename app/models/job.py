from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject, PydanticType
from app.models.falqon_options import ANY_DEVICE, Budget
from app.models.job_progress import JobProgress
from app.models.job_request import JobRequest
from app.models.job_verdict import JobVerdict
from app.models.reported import ReportedFloat
from falqon_core.contract.block_weights import Weights
from falqon_core.contract.config import Recipe, read_old_recipe
from falqon_core.estimate.estimate import Actual, Estimate


class JobStatus(StrEnum):
    """Actual state of a job. `app.models.job_lifecycle` holds the transitions."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Desired(StrEnum):
    """Desired state of a job, beside its status; the worker reads it with each heartbeat."""

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
            "ix_jobs_without_metadata",
            "project_id",
            "id",
            sqlite_where=text("metadata IS NULL"),
            postgresql_where=text("metadata IS NULL"),
        ),
        Index("ix_jobs_status_id", "status", "id"),
        # By age, over all projects: most jobs have ended, and the older ones would be read first.
        Index(
            "ix_jobs_queued",
            "id",
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "ix_jobs_events_kept",
            "finished_at",
            sqlite_where=text("events_removed_at IS NULL"),
            postgresql_where=text("events_removed_at IS NULL"),
        ),
        Index(
            "ix_jobs_checkpoints_kept",
            "project_id",
            "finished_at",
            sqlite_where=text("checkpoints_removed_at IS NULL"),
            postgresql_where=text("checkpoints_removed_at IS NULL"),
        ),
        # For files in use; with the project and the id, jobs are counted in the index alone.
        Index(
            "ix_jobs_training_file_id_status_project_id_id",
            "training_file_id",
            "status",
            "project_id",
            "id",
        ),
        Index(
            "ix_jobs_validation_file_id_status_project_id_id",
            "validation_file_id",
            "status",
            "project_id",
            "id",
        ),
        Index(
            "ix_jobs_queue",
            "status",
            "project_id",
            "desired",
            text("priority DESC"),
            "id",
            "not_before",
            "num_gpus",
            "gpu",
        ),
        CheckConstraint(
            "(lease_owner IS NULL) = (lease_expires_at IS NULL)", name="lease_is_whole"
        ),
        CheckConstraint("lease_owner IS NULL OR status = 'running'", name="only_running_is_leased"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str]
    desired: Mapped[str]
    # Order among the queued jobs of its project, higher first.
    priority: Mapped[int] = mapped_column(default=0)
    # GPUs of one machine, each with a process of its own; on a CPU one.
    num_gpus: Mapped[int] = mapped_column(default=1, server_default="1")
    # Kind of device that it waits for, by its name in the price table, or any.
    gpu: Mapped[str] = mapped_column(default=ANY_DEVICE, server_default=ANY_DEVICE)

    # Id of the request that it came with, as in the API's log.
    request_id: Mapped[str | None]
    # Span of that request, where it was traced: attempts are its children.
    traceparent: Mapped[str | None]
    key_id: Mapped[str | None]  # API key of the request; null: not recorded then

    base_model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    # Checkpoint of a job with that base model, whose training this one continues.
    base_checkpoint_id: Mapped[str | None] = mapped_column(index=True)
    study_id: Mapped[str | None] = mapped_column(index=True)  # study that it is part of
    training_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    validation_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    suffix: Mapped[str | None]
    # Stored unchanged: fields that the user did not send are absent.
    requested: Mapped[JobRequest] = mapped_column(PydanticType(JobRequest, exclude_unset=True))
    # Resolved recipe; set once the files are checked, with every "auto" replaced.
    recipe: Mapped[Recipe | None] = mapped_column(
        PydanticType(Recipe, exclude_none=True, read_old=read_old_recipe)
    )
    # Estimate at submission, and beside it the actual values of a job that succeeded.
    estimate: Mapped[Estimate | None] = mapped_column(PydanticType(Estimate))
    actual: Mapped[Actual | None] = mapped_column(PydanticType(Actual, drop_invalid=True))
    budget: Mapped[Budget | None] = mapped_column(PydanticType(Budget))
    job_metadata: Mapped[JsonObject | None] = mapped_column("metadata")

    # Number of executions so far; the newest one's number is the fencing token.
    attempt: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    infra_failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]  # earliest time of the next execution, after a lost one
    # For a waiting job: the machine that keeps its free cards for it, and the end of that.
    held_by: Mapped[str | None]
    held_until: Mapped[datetime | None]
    # For a running job: the waiting one that gets its cards, unless that one stops waiting.
    preempted_for: Mapped[str | None]
    preempted_at: Mapped[datetime | None]  # latest decision to take its cards back
    last_event_seq: Mapped[int] = mapped_column(default=0)
    progress: Mapped[JobProgress | None] = mapped_column(
        PydanticType(JobProgress, exclude_unset=True, drop_invalid=True)
    )
    # Sum over all attempts, as last reported.
    device_seconds: Mapped[float] = mapped_column(ReportedFloat, default=0.0)
    # The same, independently of the number of devices.
    execution_seconds: Mapped[float] = mapped_column(ReportedFloat, default=0.0)
    paused_reason: Mapped[str | None]

    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_param: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    fine_tuned_model_id: Mapped[str | None]
    # Of the newest evaluation of the model that has ended.
    verdict: Mapped[JobVerdict | None] = mapped_column(PydanticType(JobVerdict))
    result_file_id: Mapped[str | None]  # the metrics of every step as CSV

    created_at: Mapped[CreatedAt]
    notified_at: Mapped[datetime | None]  # latest notification of the workers
    started_at: Mapped[datetime | None]  # start of the first attempt
    finished_at: Mapped[datetime | None]
    # Removal of all events but the last, because of their age.
    events_removed_at: Mapped[datetime | None]
    # Removal of all checkpoints but the best and the last, because of their age.
    checkpoints_removed_at: Mapped[datetime | None]

    @property
    def weights(self) -> Weights:
        """Return the form in which it trains, and its checkpoints become models."""
        return "fp8" if self.recipe is None else self.recipe.weights

    @hybrid_property
    def is_waiting(self) -> bool:
        """Return True if the job waits for a worker; in a statement, the condition that it does."""
        return (self.status == JobStatus.QUEUED) & (self.desired == Desired.RUN)
