"""Jobs in the API's JSON: the official fields exact, ours beside them."""

import time
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field

from app.http.pagination import Object, unix_seconds
from app.jobs.checkpoints import checkpoint_name
from app.jobs.metrics import SeriesByKey
from app.jobs.queue_forecast import FORESEEABLE_SECONDS, QueueObject
from app.jobs.requests import official_hyperparameters, read_recipe
from app.models import Attempt, Checkpoint, Event, Job, JobStatus
from app.models.base import JsonObject
from app.models.job_lifecycle import TERMINAL
from app.models.job_progress import JobCost
from app.models.job_verdict import JobVerdict
from falqon_core.contract.health import HealthCode
from falqon_core.contract.range_test import RangePoint
from falqon_core.estimate.estimate import Actual, Estimate

BESIDE_PROGRESS = {
    "cost",
    "health",
    "first_loss",
    "range_test",
}  # fields that stand elsewhere, or nowhere


class ErrorObject(BaseModel):
    code: str
    message: str
    param: str | None


class HyperparametersObject(BaseModel):
    """Resolved hyperparameters; "auto" until then."""

    n_epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    learning_rate_multiplier: float | Literal["auto"] = "auto"

    @classmethod
    def of(cls, job: Job) -> Self:
        if job.recipe is not None:
            recipe = job.recipe
            assert recipe.num_epochs is not None
            assert recipe.batch_size is not None
            assert recipe.learning_rate is not None
            # Jobs from before rates followed the width have no automatic one in their estimate.
            stored = job.estimate.automatic_rate if job.estimate is not None else None
            multiplier = recipe.learning_rate / (stored or recipe.automatic_rate()).value
            return cls(
                n_epochs=recipe.num_epochs,
                batch_size=recipe.batch_size,
                learning_rate_multiplier=round(multiplier, 9),
            )
        official = official_hyperparameters(job.requested)
        return cls.model_validate(official.model_dump(exclude_none=True))


class AttemptObject(BaseModel):
    number: int
    worker: str
    device: str
    num_devices: Annotated[int, Field(description="GPUs; on a CPU, cores")]
    cards: Annotated[
        list[int], Field(description="by the driver's number; on a CPU, slots, if it has several")
    ]
    start_step: int | None
    started_at: int
    ended_at: int | None
    outcome: str | None
    error_code: str | None
    tokens_per_second: float | None
    log_bytes: Annotated[int, Field(description="bytes of its trainer's log")]

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        return cls(
            number=attempt.number,
            worker=attempt.worker,
            device=attempt.device,
            num_devices=attempt.num_devices,
            cards=attempt.cards or [],
            start_step=attempt.start_step,
            started_at=int(attempt.created_at.timestamp()),
            ended_at=unix_seconds(attempt.ended_at),
            outcome=attempt.outcome,
            error_code=attempt.error_code,
            tokens_per_second=attempt.tokens_per_second and round(attempt.tokens_per_second, 1),
            log_bytes=attempt.log_bytes,
        )


class HealthObject(BaseModel):
    """A finding on the health of a job. `is_failing`: a training that ends with it is no better
    than it was.
    """

    code: HealthCode
    step: int
    message: str
    advice: Annotated[str, Field(description="the way out")]
    is_failing: bool

    @classmethod
    def list_of(cls, job: Job) -> list[Self]:
        findings = job.progress.health if job.progress is not None else []
        order = get_args(HealthCode)
        return [
            cls(
                code=finding.code,
                step=finding.step,
                message=finding.message,
                advice=finding.advise(has_ended=job.status in TERMINAL),
                is_failing=finding.is_failing,
            )
            for finding in sorted(findings, key=lambda each: order.index(each.code))
        ]


class RangeTestObject(BaseModel):
    """Result of a range test, the job of `falqon.find_rate`."""

    points: list[RangePoint]
    proposal: Annotated[
        float | None, Field(description="learning rate; null if the test finds none")
    ]
    message: Annotated[str, Field(description="the proposal, or why there is none")]

    @classmethod
    def of(cls, job: Job) -> Self | None:
        result = job.progress.range_test if job.progress is not None else None
        if result is None:
            return None
        return cls(points=result.points, proposal=result.proposal, message=result.message)


class JobObject(Object):
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    model: str
    organization_id: str
    api_key_id: Annotated[
        str | None, Field(description="the key that created the job; null for an older job")
    ]
    status: str
    training_file: str
    validation_file: str | None
    hyperparameters: HyperparametersObject
    method: dict[str, Any]
    seed: int
    integrations: list[JsonObject]
    metadata: JsonObject | None
    result_files: Annotated[
        list[str], Field(description="the metrics of every step as CSV, once the job has succeeded")
    ]
    error: ErrorObject | None
    fine_tuned_model: str | None
    finished_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None

    suffix: str | None
    priority: int
    study_id: Annotated[str | None, Field(description="id of the study that the job is part of")]
    num_gpus: Annotated[int, Field(description="GPUs that it trains on; on a CPU, slots")]
    gpu: Annotated[str, Field(description="the device that it waits for, or any")]
    progress: JsonObject | None
    cost: JobCost | None
    estimate: Estimate | None
    actual: Annotated[
        Actual | None,
        Field(description="beside the estimate, once the job has succeeded: seconds, cost, ratio"),
    ]
    execution_seconds: Annotated[
        float,
        Field(description="total of all attempts, as last reported; budget.max_seconds caps it"),
    ]
    budget: JsonObject | None
    queue: Annotated[
        QueueObject | None, Field(description="forecast for a job that waits for a worker")
    ]
    config: Annotated[
        JsonObject | None,
        Field(description="the recipe, every `auto` resolved; null until the files are checked"),
    ]
    attempts: list[AttemptObject] = []
    best_checkpoint: Annotated[
        "CheckpointObject | None", Field(description="the one with the lowest validation loss")
    ] = None
    health: Annotated[
        list[HealthObject],
        Field(description="what to know of the training now, or knew at its end; worst first"),
    ] = []
    range_test: Annotated[
        RangeTestObject | None, Field(description="of a job with `falqon.find_rate`, at its end")
    ] = None
    verdict: Annotated[
        JobVerdict | None,
        Field(description="of the newest evaluation of its model, in words; null before that"),
    ]
    paused_reason: str | None
    dry_run: bool = False

    @classmethod
    def of(
        cls, job: Job, model: str, *, queue: QueueObject | None = None, dry_run: bool = False
    ) -> Self:
        """Return a job; `model`: what its training begins from, by its own name."""
        hyperparameters = HyperparametersObject.of(job)
        fine_tuned_model = job.fine_tuned_model_id if job.status == JobStatus.SUCCEEDED else None
        paused_reason = job.paused_reason if job.status == JobStatus.PAUSED else None
        return cls(
            id=job.id,
            created_at=int(job.created_at.timestamp()),
            model=model,
            organization_id=job.project_id,
            api_key_id=job.key_id,
            status=job.status,
            training_file=job.training_file_id,
            validation_file=job.validation_file_id,
            hyperparameters=hyperparameters,
            method=_method(job, hyperparameters.model_dump()),
            seed=_seed(job),
            integrations=[
                integration.model_dump(mode="json", exclude_unset=True)
                for integration in job.requested.integrations or ()
            ],
            result_files=[job.result_file_id] if job.result_file_id else [],
            metadata=job.job_metadata,
            error=_error(job),
            fine_tuned_model=fine_tuned_model,
            finished_at=unix_seconds(job.finished_at),
            estimated_finish=_estimated_finish(job),
            trained_tokens=job.trained_tokens,
            suffix=job.suffix,
            priority=job.priority,
            study_id=job.study_id,
            num_gpus=job.num_gpus,
            gpu=job.gpu,
            progress=_progress(job),
            cost=_cost(job),
            estimate=job.estimate,
            actual=job.actual,
            execution_seconds=round(job.execution_seconds or 0.0, 1),
            budget=job.budget and job.budget.model_dump(mode="json"),
            queue=queue,
            config=job.recipe and job.recipe.model_dump(mode="json"),
            health=HealthObject.list_of(job),
            range_test=RangeTestObject.of(job),
            verdict=job.verdict,
            paused_reason=paused_reason,
            dry_run=dry_run,
        )


class EventObject(Object):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    type: str
    message: str
    data: JsonObject | None

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(
            id=event_id(event.job_id, event.seq),
            created_at=int(event.created_at.timestamp()),
            level=event.level,
            type=event.type,
            message=event.message,
            data=event.data,
        )


class CheckpointObject(Object):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: JsonObject

    @classmethod
    def of(cls, checkpoint: Checkpoint, model_id: str) -> Self:
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at.timestamp()),
            fine_tuning_job_id=checkpoint.job_id,
            fine_tuned_model_checkpoint=checkpoint_name(model_id, checkpoint.step),
            step_number=checkpoint.step,
            metrics={"step": checkpoint.step} | checkpoint.metrics,
        )


class JobDeleted(Object):
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    deleted: bool = True


class LogObject(BaseModel):
    """Output of a trainer beside its messages. `attempt`: null if no attempt has a log."""

    object: Literal["fine_tuning.job.log"] = "fine_tuning.job.log"
    fine_tuning_job_id: str
    attempt: int | None
    text: str
    bytes: Annotated[
        int, Field(description="bytes of the log up to here: `after` of the next call")
    ]


class Series(BaseModel):
    """Line of a chart, as two columns of the same length."""

    steps: list[int]
    values: list[float]


class MetricsObject(BaseModel):
    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    fine_tuning_job_id: str
    series: dict[str, Series]

    @classmethod
    def of(cls, job_id: str, series: SeriesByKey) -> Self:
        columns = {
            key: Series(steps=[step for step, _ in points], values=[value for _, value in points])
            for key, points in series.items()
        }
        return cls(fine_tuning_job_id=job_id, series=columns)


def event_id(job_id: str, seq: int) -> str:
    return f"ftevent-{job_id.removeprefix('ftjob-')}-{seq}"


def event_seq(job_id: str, id_: str) -> int | None:
    """Return the number of an event of this job, from its id."""
    prefix, _, seq = id_.rpartition("-")
    if prefix + "-" == event_id(job_id, 0)[:-1] and seq.isdecimal() and len(seq) < 10:
        return int(seq)
    return None


def _method(job: Job, hyperparameters: JsonObject) -> dict[str, Any]:
    recipe = job.recipe or read_recipe(job.requested).recipe
    if recipe.objective == "dpo":
        return {
            "type": "dpo",
            "dpo": {"hyperparameters": hyperparameters | {"beta": recipe.beta or "auto"}},
        }
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def _seed(job: Job) -> int:
    if job.recipe:
        return job.recipe.seed
    return job.requested.seed or job.requested.falqon.seed


def _error(job: Job) -> ErrorObject | None:
    if job.status != JobStatus.FAILED:
        return None
    return ErrorObject(
        code=job.error_code or "internal_error",
        message=job.error_message or "The job failed.",
        param=job.error_param,
    )


def _estimated_finish(job: Job) -> int | None:
    if job.progress is None or job.status != JobStatus.RUNNING:
        return None
    eta = job.progress.eta_seconds
    return None if eta is None or eta > FORESEEABLE_SECONDS else int(time.time() + eta)


def _progress(job: Job) -> JsonObject | None:
    if job.progress is None:
        return None
    return job.progress.model_dump(mode="json", exclude=BESIDE_PROGRESS, exclude_unset=True)


def _cost(job: Job) -> JobCost | None:
    """Return the cost that the worker last reported, before that the estimated one."""
    if job.progress is not None and job.progress.cost is not None:
        return job.progress.cost
    if job.estimate is None:
        return None
    cost = job.estimate.cost
    return JobCost(
        currency=cost.currency,
        usd_per_device_hour=cost.usd_per_device_hour,
        price_source=cost.price_source,
        accrued=Decimal("0.0000"),
        projected=cost.expected,
        projected_low=cost.low,
        projected_high=cost.high,
    )
