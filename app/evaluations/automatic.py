"""The evaluation that follows a success by itself. Free of the web framework: the worker that
publishes a result begins it.
"""

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy.orm import Session

from app.base.errors import ApiError
from app.evaluations import plan
from app.jobs.events import NewEvent, append
from app.models import Evaluation, Job, Project
from app.models.evaluation import EvaluationPlan
from app.models.graders import AnyGrader, StringCheck, TextSimilarity
from falqon_core.estimate.evaluation import MAX_ROWS, MAX_TOKENS

GRADERS: list[AnyGrader] = [
    StringCheck(type="string_check", name="same", operation="eq"),
    TextSimilarity(type="text_similarity", name="fuzzy_match", evaluation_metric="fuzzy_match"),
]


def begin(session: Session, job: Job, rivals: Sequence[str] = ()) -> Evaluation | None:
    """Add the evaluation that the estimate of a job announced, in the transaction that publishes
    its result. An obstacle becomes an event: the job has succeeded either way. The `rivals` of a
    switch are asked, too.
    """
    estimate = job.estimate.evaluation if job.estimate is not None else None
    is_wanted = job.requested.falqon.switch or session.get_one(Project, job.project_id).evaluate
    if estimate is None or not is_wanted:
        return None
    left = _left_of_budget(job)
    if left is not None and estimate.cost > left:
        reason = (
            f"it would cost about ${estimate.cost}, and ${left} of the budget is left. "
            f"`falqon evaluate {job.id}` does it."
        )
        _tell_skipped(session, job, reason, "falqon.budget.max_cost_usd")
        return None
    try:
        file_id, origin = plan.rows_of(session, job.project_id, job, None)
        planned = EvaluationPlan(
            graders=GRADERS,
            models=plan.models_of(session, job.project_id, job, rivals=rivals),
            rivals=list(rivals),
            max_rows=MAX_ROWS,
            max_tokens=MAX_TOKENS,
            max_cost_usd=left,
        )
    except ApiError as error:
        _tell_skipped(session, job, error.message, error.param)
        return None
    return plan.add(session, job, file_id, origin, planned, job.key_id)


def _left_of_budget(job: Job) -> Decimal | None:
    """Return the rest of the job's budget; None without a cap in dollars."""
    if job.budget is None or job.budget.max_cost_usd is None:
        return None
    cost = job.progress.cost if job.progress is not None else None
    return max(Decimal(0), job.budget.max_cost_usd - (cost.accrued if cost else 0))


def _tell_skipped(session: Session, job: Job, reason: str, param: str | None) -> None:
    text = f"The model is not compared with its base: {reason}"
    data = {"code": "evaluation_skipped", "param": param}
    append(session, job.id, [NewEvent(text, level="warn", data=data)])
