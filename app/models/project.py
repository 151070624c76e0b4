from datetime import datetime

from sqlalchemy import BigInteger, String, true
from sqlalchemy.orm import Mapped, mapped_column

from app.models.answer_storage import AnswerStorage
from app.models.base import Base, CreatedAt, PydanticType
from app.models.model import ServeAs

DEFAULT_PROJECT_ID = "proj_default"


class Project(Base):
    """Tenant: every row a user can reach belongs to one. A null limit means that the project has no
    limit of its own.
    """

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[CreatedAt]
    archived_at: Mapped[datetime | None]

    requests_per_minute: Mapped[int | None]  # per API key; null: as in the settings
    max_live_jobs: Mapped[int | None]
    max_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_device_hours: Mapped[float | None]  # per calendar month, UTC
    max_running_gpus: Mapped[int | None]  # of all its running jobs; a CPU counts its slots
    # Of these none is taken back; the others are borrowed. Null: none is guaranteed.
    guaranteed_gpus: Mapped[int | None]

    # Days that checkpoints of ended jobs, and unused models, stay; null: as in the settings.
    checkpoints_kept_days: Mapped[int | None]
    models_kept_days: Mapped[int | None]

    # Evaluate the model of a job that held rows out, once it has succeeded.
    evaluate: Mapped[bool] = mapped_column(default=True, server_default=true())

    serve_as: Mapped[ServeAs] = mapped_column(String, default="merged", server_default="merged")

    # Share of the cards relative to that of other projects.
    weight: Mapped[int] = mapped_column(default=1)
    # Grows by GPUs/weight with each claim; see `app.jobs.next_job`.
    virtual_time: Mapped[float] = mapped_column(default=0.0)
    virtual_start: Mapped[float] = mapped_column(default=0.0)  # at which its newest claim began
    usage_month: Mapped[str | None]  # 2026-11: the month that `usage_device_seconds` counts
    # Total of the attempts that have ended.
    usage_device_seconds: Mapped[float] = mapped_column(default=0.0)

    # null: no answer is stored
    answer_storage: Mapped[AnswerStorage | None] = mapped_column(PydanticType(AnswerStorage))
    answer_bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # total of those stored
