from typing import Annotated

from fastapi import APIRouter, Query

from app.evaluations import service
from app.evaluations.schemas import EvaluationObject, EvaluationRequest
from app.http.dependencies import After, Agent, Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute

router = APIRouter(
    prefix="/v1/fine_tuning/jobs/{job_id}/evaluations", tags=["fine-tuning"], route_class=ApiRoute
)


@router.post("")
def create_evaluation(
    services: ServicesDep, caller: Agent, job_id: str, body: EvaluationRequest
) -> EvaluationObject:
    """Have the job's model, checkpoints of it and the base answer held-out rows, with temperature
    0, and grade the answers. A worker sends the rows to the engine; the result says for each grader
    what is better or worse than the base.
    """
    return service.create_evaluation(services, caller, job_id, body)


@router.get("")
def list_evaluations(
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[EvaluationObject]:
    """List evaluations, newest first."""
    return service.list_evaluations(services, caller, job_id, after=after, limit=limit)


@router.get("/{evaluation_id}")
def retrieve_evaluation(
    services: ServicesDep, caller: Reader, job_id: str, evaluation_id: str
) -> EvaluationObject:
    return service.retrieve_evaluation(services, caller, job_id, evaluation_id)
