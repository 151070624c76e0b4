"""Outcome of an evaluation: its own row, the job's verdict and event, and whose usage it is."""

from decimal import Decimal

from sqlalchemy.orm import Session

from app.base.database import now
from app.evaluations.summary import summarise, verdict_of
from app.jobs import repository as jobs
from app.jobs.events import NewEvent, append
from app.models import Evaluation, Job
from app.models.base import JsonObject
from app.models.evaluation import EvaluationResult
from app.models.job_lifecycle import TERMINAL
from app.models.job_progress import JobCost, JobProgress
from app.operations import claims
from app.usage import repository as usage
from app.webhooks import events as webhooks
from falqon_core.estimate.prices import Price
from worker.evaluation.charge import Charge

WEBHOOK = "evaluation.finished"


def complete(
    session: Session,
    evaluation: Evaluation,
    result: EvaluationResult,
    charge: Charge,
    **values: object,
) -> bool:
    """Record the result and charge it. Return False where the lease or the job is gone."""
    job = jobs.lock_in_any_project(session, evaluation.job_id)
    if job is None:
        return False
    if not claims.complete(session, evaluation, result=result, **_amounts(charge), **values):
        return False
    outcome: JsonObject = {}
    verdict = verdict_of(evaluation.id, result)
    if verdict is not None and evaluation.plan.models[-1].role == "result":
        outcome["verdict"] = verdict
    event = NewEvent(summarise(result), data=_data(evaluation, "completed"))
    _end(session, job, evaluation, charge, event, outcome)
    return True


def fail(session: Session, evaluation: Evaluation, charge: Charge, code: str, message: str) -> bool:
    """Record the failure and charge the time before it."""
    job = jobs.lock_in_any_project(session, evaluation.job_id)
    if job is None or not claims.fail(session, evaluation, code, message, **_amounts(charge)):
        return False
    data = _data(evaluation, "failed") | {"code": code}
    event = NewEvent(f"The evaluation has failed: {message}", "warn", data=data)
    _end(session, job, evaluation, charge, event, {})
    return True


def _is_part_of_job(job: Job, evaluation: Evaluation) -> bool:
    """Return whether the evaluation's cost is part of the job's: the key that created the job
    asked, and the job has ended. While a job trains, its worker reports its cost.
    """
    return job.status in TERMINAL and evaluation.key_id in (None, job.key_id)


def _amounts(charge: Charge) -> JsonObject:
    return {"seconds": charge.seconds, "cost": charge.cost}


def _end(
    session: Session,
    job: Job,
    evaluation: Evaluation,
    charge: Charge,
    event: NewEvent,
    outcome: JsonObject,
) -> None:
    """Tell of the end, and book the charge: as part of the job, or for the key that asked."""
    is_part = _is_part_of_job(job, evaluation)
    charged = _charge(job, charge) if charge.seconds and is_part else {}
    append(session, job.id, [event], **outcome, **charged)
    webhooks.record(session, evaluation.project_id, job.id, WEBHOOK)
    if not charge.seconds:
        return
    day = now(session).date()
    if is_part:
        usage.book(session, job.id, day)
        return
    total = usage.Amounts(charge.cost, charge.seconds * charge.num_devices, 0)
    owner = (job.project_id, evaluation.key_id or job.key_id, job.base_model_id)
    usage.book_total(session, evaluation.id, day, *owner, total)


def _data(evaluation: Evaluation, status: str) -> JsonObject:
    return {"event": WEBHOOK, "evaluation": evaluation.id, "status": status}


def _charge(job: Job, charge: Charge) -> JsonObject:
    """Return the columns of an ended job with the charge added."""
    progress = job.progress or JobProgress()
    cost = _add(progress.cost or _no_cost(charge.price), charge.cost)
    return {
        "device_seconds": job.device_seconds + charge.seconds * charge.num_devices,
        "progress": progress.model_copy(update={"cost": cost}),
    }


def _add(cost: JobCost, charge: Decimal) -> JobCost:
    projections = ("projected", "projected_low", "projected_high")
    changed = {name: value + charge for name in projections if (value := getattr(cost, name))}
    return cost.model_copy(update={"accrued": cost.accrued + charge} | changed)


def _no_cost(price: Price) -> JobCost:
    return JobCost(
        currency="usd",
        usd_per_device_hour=price.usd_per_device_hour,
        price_source=price.label,
        accrued=Decimal(0),
        projected=None,
        projected_low=None,
        projected_high=None,
    )
