"""Use cases of evaluations of a job."""

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.evaluations import plan, repository
from app.evaluations.schemas import EvaluationObject, EvaluationRequest
from app.http.pagination import Page, check_cursor
from app.jobs import agent_budget
from app.jobs import service as jobs
from app.models import Evaluation, Job
from app.models.evaluation import EvaluationPlan
from app.operations import service as operations
from app.services import Services

MAX_IN_PROGRESS = 3  # per project; each sends a model hundreds of prompts


def create_evaluation(
    services: Services, caller: Caller, job_id: str, request: EvaluationRequest
) -> EvaluationObject:
    """Have a worker send the same prompts to the job's models and to the base. Raises if the
    evaluation could only fail.
    """
    project_id = caller.project_id
    with services.database.transaction() as session:
        job = jobs.get(session, project_id, job_id, lock=True)
        plan.check_judges(session, caller, services.settings, request)
        file_id, origin = plan.rows_of(session, project_id, job, request.file)
        planned = EvaluationPlan(
            graders=request.graders,
            models=plan.models_of(session, project_id, job, request.checkpoints),
            max_rows=request.max_rows,
            max_tokens=request.max_tokens,
            max_cost_usd=agent_budget.admit_answers(session, caller),
        )
        operations.admit(session, Evaluation, project_id, MAX_IN_PROGRESS)
        evaluation = plan.add(session, job, file_id, origin, planned, caller.key_id)
        created = EvaluationObject.of(evaluation)
        audit.record(session, caller, "evaluation.created", created.id)
    services.notifier.notify(Evaluation, created.id)
    return created


def list_evaluations(
    services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> Page[EvaluationObject]:
    """List evaluations, the newest first."""
    with services.database.read() as session:
        evaluations = page(session, caller.project_id, job_id, after=after, limit=limit)
        objects = [EvaluationObject.of(evaluation) for evaluation in evaluations]
    return Page[EvaluationObject].of(objects, limit)


def retrieve_evaluation(
    services: Services, caller: Caller, job_id: str, evaluation_id: str
) -> EvaluationObject:
    with services.database.read() as session:
        return EvaluationObject.of(get(session, caller.project_id, job_id, evaluation_id))


def get(session: Session, project_id: str, job_id: str, evaluation_id: str) -> Evaluation:
    jobs.get(session, project_id, job_id)
    evaluation = repository.find(session, project_id, job_id, evaluation_id)
    if evaluation is None:
        raise NotFound(
            f"There is no evaluation '{evaluation_id}' of this job.",
            param="evaluation_id",
            code="evaluation_not_found",
        )
    return evaluation


def can_evaluate(job: Job) -> bool:
    """Return whether the job has a model, and rows that it was not trained on."""
    return job.fine_tuned_model_id is not None and plan.held_out(job) is not None


def page(
    session: Session, project_id: str, job_id: str, *, after: str | None, limit: int
) -> list[Evaluation]:
    """Return the newest first, at most one more than `limit`."""
    check_cursor(after, plan.ID_PREFIX, "an evaluation")
    jobs.get(session, project_id, job_id)
    return repository.newest_first(session, project_id, job_id, after=after, limit=limit)
