from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse

from app.http.dependencies import Reader, ServicesDep
from app.http.event_stream import CURSOR_PATTERN, event_stream
from app.http.routes import ApiRoute
from app.stream import service

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=ApiRoute)


@router.get(
    "/{job_id}/stream",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def stream_job(
    services: ServicesDep,
    caller: Reader,
    job_id: str,
    after: Annotated[str, Query(pattern=CURSOR_PATTERN)] = "0",
    last_event_id: Annotated[str | None, Header(pattern=CURSOR_PATTERN)] = None,
) -> EventSourceResponse:
    """Send server-sent events of one job, from the beginning or after a number, until it has ended;
    the last line is `data: [DONE]`.
    """
    # A browser that reconnects repeats the original query, so the header is the newer of the two.
    param, cursor = "after", after
    if last_event_id is not None:
        param, cursor = "Last-Event-ID", last_event_id
    await run_sync(service.check_cursor, services, caller, job_id, param, cursor)
    return event_stream(service.follow_job(services, caller, job_id, int(cursor)))
