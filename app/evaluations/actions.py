"""What callers do with evaluations of a job."""

from app.auth import audit
from app.auth.caller import Caller
from app.evaluations import service
from app.evaluations.schemas import EvaluationObject, EvaluationRequest
from app.http.pagination import Page
from app.models import Evaluation
from app.services import Services


def create_evaluation(
    services: Services, caller: Caller, job_id: str, request: EvaluationRequest
) -> EvaluationObject:
    """Have a worker ask the job's models, and the base, the same questions."""
    with services.database.transaction() as session:
        evaluation = EvaluationObject.of(
            service.create(session, caller.project_id, job_id, request)
        )
        audit.record(session, caller, "evaluation.created", evaluation.id)
    services.notifier.notify(Evaluation, evaluation.id)
    return evaluation


def list_evaluations(
    services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> Page[EvaluationObject]:
    """List them, the newest first."""
    with services.database.read() as session:
        evaluations = service.page(session, caller.project_id, job_id, after=after, limit=limit)
        objects = [EvaluationObject.of(evaluation) for evaluation in evaluations]
    return Page[EvaluationObject].of(objects, limit)


def retrieve_evaluation(
    services: Services, caller: Caller, job_id: str, evaluation_id: str
) -> EvaluationObject:
    with services.database.read() as session:
        return EvaluationObject.of(service.get(session, caller.project_id, job_id, evaluation_id))
