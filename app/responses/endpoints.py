from fastapi import APIRouter, Request, Response

from app.http.dependencies import InferenceCaller, Reader, ServicesDep, Writer
from app.http.routes import ApiRoute
from app.inference.answers import EnginesDep
from app.inference.endpoints import RESPONSES
from app.models import AnswerKind
from app.responses import service
from app.responses.schemas import ResponseRequest
from app.stored_answers import service as stored_answers
from app.stored_answers.endpoints import WRITTEN
from app.stored_answers.schemas import StoredAnswerDeleted, StoredAnswerObject

router = APIRouter(prefix="/v1/responses", tags=["inference"], route_class=ApiRoute)
KIND = AnswerKind.RESPONSE


@router.post("", response_class=Response, responses=RESPONSES)
async def create_response(
    services: ServicesDep,
    engines: EnginesDep,
    caller: InferenceCaller,
    request: Request,
    body: ResponseRequest,
) -> Response:
    """Create a response of a model to a text or to messages. A project that stores answers keeps it
    unless `store` is false, so that the next one may name it as `previous_response_id`.
    """
    return await service.create_response(services, engines, caller, request, body)


@router.get("/{response_id}", dependencies=WRITTEN)
def retrieve_response(
    services: ServicesDep, caller: Reader, response_id: str
) -> StoredAnswerObject:
    """Return a stored response."""
    return stored_answers.retrieve_answer(services, caller, KIND, response_id)


@router.delete("/{response_id}", dependencies=WRITTEN)
def delete_response(services: ServicesDep, caller: Writer, response_id: str) -> StoredAnswerDeleted:
    return stored_answers.delete_answer(services, caller, KIND, response_id)
