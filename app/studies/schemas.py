from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from app.http.pagination import Object
from app.jobs.comparison import recipe_of
from app.models import Job, Study
from app.models.job_lifecycle import TERMINAL
from falqon_core.contract.methods import MethodName
from falqon_core.estimate.comparison import ComparisonRow


class StudyJobObject(BaseModel):
    id: str
    method: MethodName
    learning_rate: Annotated[float | None, Field(description="null: not decided yet")]
    seed: int
    status: str

    @classmethod
    def of(cls, job: Job) -> Self:
        recipe = recipe_of(job)
        return cls(
            id=job.id,
            method=recipe.method,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            status=job.status,
        )


class ListedStudyObject(Object):
    object: Literal["falqon.study"] = "falqon.study"
    created_at: int
    name: str | None
    status: Annotated[
        Literal["in_progress", "completed"],
        Field(description="completed: every job has ended, each with a status of its own"),
    ]
    model: str
    training_file: str
    validation_file: str | None
    jobs: Annotated[
        list[StudyJobObject], Field(description="by method, rate and seed, without deleted ones")
    ]

    @classmethod
    def of(cls, study: Study, jobs: Sequence[Job]) -> Self:
        requested = study.requested
        has_ended = all(job.status in TERMINAL for job in jobs)
        return cls(
            id=study.id,
            created_at=int(study.created_at.timestamp()),
            name=requested.name,
            status="completed" if has_ended else "in_progress",
            model=requested.model,
            training_file=requested.training_file,
            validation_file=requested.validation_file,
            jobs=[StudyJobObject.of(job) for job in jobs],
        )


class StudyObject(ListedStudyObject):
    table: Annotated[
        list[ComparisonRow], Field(description="a row for each method, at the best of its rates")
    ] = []
