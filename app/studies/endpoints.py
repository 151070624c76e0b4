from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.http.dependencies import (
    After,
    IdempotencyKey,
    Reader,
    RetryCount,
    ServicesDep,
    Writer,
)
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.models.study_request import StudyRequest
from app.studies import service
from app.studies.schemas import ListedStudyObject, StudyObject
from falqon_core.estimate.comparison import to_csv, to_markdown

router = APIRouter(prefix="/v1/falqon/studies", tags=["fine-tuning"], route_class=ApiRoute)


@router.post("")
def create_study(
    services: ServicesDep,
    caller: Writer,
    body: StudyRequest,
    idempotency_key: IdempotencyKey = None,
    retry_count: RetryCount = 0,
) -> StudyObject:
    """Create a job for each method, or none if one of them is refused, and compare them in one
    table.
    """
    return service.create_study(
        services, caller, body, idempotency_key=idempotency_key, retry_count=retry_count
    )


@router.get("")
def list_studies(
    services: ServicesDep,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[ListedStudyObject]:
    """List studies, newest first, without their tables."""
    return service.list_studies(services, caller, after=after, limit=limit)


@router.get("/{study_id}")
def retrieve_study(services: ServicesDep, caller: Reader, study_id: str) -> StudyObject:
    return service.retrieve_study(services, caller, study_id)


@router.post("/{study_id}/cancel")
def cancel_study(services: ServicesDep, caller: Writer, study_id: str) -> StudyObject:
    """Cancel every job of the study that has not ended."""
    return service.cancel_study(services, caller, study_id)


@router.get(
    "/{study_id}/table.md",
    response_class=Response,
    responses={200: {"content": {"text/markdown": {}}}},
)
def retrieve_markdown(services: ServicesDep, caller: Reader, study_id: str) -> Response:
    table = to_markdown(service.read_table(services, caller, study_id))
    return Response(table, media_type="text/markdown")


@router.get(
    "/{study_id}/table.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}}
)
def retrieve_csv(services: ServicesDep, caller: Reader, study_id: str) -> Response:
    return Response(to_csv(service.read_table(services, caller, study_id)), media_type="text/csv")
