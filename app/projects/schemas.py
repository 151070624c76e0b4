from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints

from app.http.pagination import Object, unix_seconds
from app.models import Project
from app.models.answer_storage import AnswerStorage
from app.models.model import ServeAs
from app.models.strict_model import StrictModel
from app.projects.repository import ProjectUsage

MAX_BYTES = 2**53  # largest range that JSON numbers hold exactly

Name = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=100, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$"
    ),
]


KeptDays = Annotated[int, Field(ge=1, le=36_500)]


class ProjectRequest(StrictModel):
    name: Name
    weight: Annotated[
        int,
        Field(
            ge=1, le=1000, description="share of the machines relative to that of other projects"
        ),
    ] = 1
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="per API key; null: the service's"
    )
    max_live_jobs: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="jobs that have not ended; null: any number"
    )
    max_storage_bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)] | None = Field(
        None, description="null: without limit"
    )
    max_device_hours: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="in a calendar month (UTC); null: without limit"
    )
    max_running_gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="GPUs that running jobs hold together; null: without limit"
    )
    guaranteed_gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="GPUs that its running jobs get back from projects that hold more than theirs; "
        "beyond them it borrows; null: none",
    )
    answer_storage: AnswerStorage | None = Field(
        None, description="answers to keep whose requests say `store`; null: none, and delete them"
    )
    checkpoints_kept_days: KeptDays | None = Field(
        None,
        description="days after which a job's checkpoints are removed, but for the best and the "
        "last; null: as in the settings of the installation",
    )
    models_kept_days: KeptDays | None = Field(
        None,
        description="days without a question or a download after which a fine-tuned model is "
        "announced, and deleted a week later; null: as in the settings of the installation",
    )
    evaluate: bool = Field(
        True,
        description="compare the model of a job with its base on the records that were held out, "
        "once the job has succeeded",
    )
    serve_as: ServeAs = Field(
        "merged",
        description="how models of jobs answer that do not say it themselves, where that is "
        "possible: from weights of their own, or as adapters on a base that they share",
    )


class ProjectChange(ProjectRequest):
    """Changes of a project; absent fields stay as they are."""

    name: Name = Field("", validate_default=False)


class UsageObject(BaseModel):
    live_jobs: int
    storage_bytes: int
    storage_by_kind: Annotated[
        dict[str, int], Field(description="bytes of files, uploads, models and checkpoints")
    ]
    device_hours: Annotated[
        float, Field(description="in this calendar month (UTC), running jobs included")
    ]


class ProjectObject(Object):
    object: Literal["project"] = "project"
    created_at: int
    name: str
    status: Literal["active", "archived"]
    archived_at: int | None
    weight: int
    requests_per_minute: int | None
    max_live_jobs: int | None
    max_storage_bytes: int | None
    max_device_hours: float | None
    max_running_gpus: int | None
    guaranteed_gpus: int | None
    checkpoints_kept_days: int | None
    models_kept_days: int | None
    answer_storage: AnswerStorage | None
    answer_bytes: Annotated[int, Field(description="of all stored answers")]
    evaluate: bool
    serve_as: ServeAs
    usage: Annotated[UsageObject | None, Field(description="null in lists")]

    @classmethod
    def of(cls, project: Project, usage: ProjectUsage | None = None) -> Self:
        return cls(
            id=project.id,
            created_at=int(project.created_at.timestamp()),
            name=project.name,
            status="active" if project.archived_at is None else "archived",
            archived_at=unix_seconds(project.archived_at),
            weight=project.weight,
            requests_per_minute=project.requests_per_minute,
            max_live_jobs=project.max_live_jobs,
            max_storage_bytes=project.max_storage_bytes,
            max_device_hours=project.max_device_hours,
            max_running_gpus=project.max_running_gpus,
            guaranteed_gpus=project.guaranteed_gpus,
            checkpoints_kept_days=project.checkpoints_kept_days,
            models_kept_days=project.models_kept_days,
            answer_storage=project.answer_storage,
            answer_bytes=project.answer_bytes,
            evaluate=project.evaluate,
            serve_as=project.serve_as,
            usage=usage
            and UsageObject(
                live_jobs=usage.live_jobs,
                storage_bytes=usage.storage_bytes,
                storage_by_kind=usage.storage_by_kind,
                device_hours=round(usage.device_seconds / 3600, 4),
            ),
        )
