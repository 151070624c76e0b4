"""Outcome of an evaluation: its own row, and beside it the job's verdict, event and cost."""

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
    """Record the result and charge the job. Return False where the lease or the job is gone."""
    job = jobs.lock_in_any_project(session, evaluation.job_id)
    # The costs of a job that still trains are its worker's to report.
    is_charged = job is not None and job.status in TERMINAL
    columns = {"seconds": charge.seconds, "cost": charge.cost if is_charged else None}
    if job is None or not claims.complete(session, evaluation, result=result, **columns, **values):
        return False
    outcome = _charge(job, charge) if is_charged else {}
    verdict = verdict_of(evaluation.id, result)
    if verdict is not None and evaluation.plan.models[-1].role == "result":
        outcome["verdict"] = verdict
    event = NewEvent(summarise(result), data=_data(evaluation, "completed"))
    _tell(session, evaluation, event, outcome)
    if is_charged:
        _book(session, job, evaluation, charge)
    return True


def fail(session: Session, evaluation: Evaluation, code: str, message: str) -> bool:
    """Record the failure; the job stays as it is and pays nothing."""
    job = jobs.lock_in_any_project(session, evaluation.job_id)
    if job is None or not claims.fail(session, evaluation, code, message, cost=None):
        return False
    data = _data(evaluation, "failed") | {"code": code}
    _tell(session, evaluation, NewEvent(f"The evaluation has failed: {message}", "warn", data=data))
    return True


def _tell(
    session: Session, evaluation: Evaluation, event: NewEvent, values: JsonObject | None = None
) -> None:
    append(session, evaluation.job_id, [event], **(values or {}))
    webhooks.record(session, evaluation.project_id, evaluation.job_id, WEBHOOK)


def _data(evaluation: Evaluation, status: str) -> JsonObject:
    return {"event": WEBHOOK, "evaluation": evaluation.id, "status": status}


def _charge(job: Job, charge: Charge) -> JsonObject:
    """Return the columns of an ended job with the charge added."""
    progress = job.progress or JobProgress()
    columns: JsonObject = {
        "device_seconds": job.device_seconds + charge.seconds * charge.num_devices
    }
    if charge.seconds:
        cost = _add(progress.cost or _no_cost(charge.price), charge.cost)
        columns["progress"] = progress.model_copy(update={"cost": cost})
    return columns


def _book(session: Session, job: Job, evaluation: Evaluation, charge: Charge) -> None:
    """Book the charge on today, for the key that asked: its day, if it has a budget, is lowered."""
    day = now(session).date()
    if evaluation.key_id in (None, job.key_id):
        usage.book(session, job.id, day)
        return
    total = usage.Amounts(charge.cost, charge.seconds * charge.num_devices, 0)
    owner = (job.project_id, evaluation.key_id, job.base_model_id)
    usage.book_total(session, evaluation.id, day, *owner, total)


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
