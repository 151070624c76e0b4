import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.database import AWAY
from app.dependencies import ApiRoute, App, Reader, Services
from app.jobs import repository
from app.jobs import service as jobs
from app.jobs.lifecycle import TERMINAL
from app.jobs.schemas import EventObject
from app.keys import service as keys
from app.models import Job

PAGE = 200
PING_SECONDS = 15
KEY_CHECK_SECONDS = 3.0  # with the second between two looks, less than the five in which a revoked key must be dead
SEND_TIMEOUT_SECONDS = 10  # a reader that takes nothing for so long is gone
CURSOR = r"^[0-9]{1,9}$"


class Ping(ServerSentEvent):
    """A comment and no blank line: after one, the `openai` client takes the remembered id for an event without data, and fails."""

    def encode(self) -> bytes:
        return b": ping\r\n"


router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=ApiRoute)


@router.get("/{job_id}/stream", response_class=EventSourceResponse)
async def stream_job(
    app: App,
    caller: Reader,
    job_id: str,
    after: Annotated[str, Query(pattern=CURSOR)] = "0",
    last_event_id: Annotated[str | None, Header(pattern=CURSOR)] = None,
) -> EventSourceResponse:
    """Server-sent events of one job, from the beginning or after a number, until it has ended; the last line is `data: [DONE]`."""
    # A browser that reconnects repeats the query as it was, so the header is the newer of the two.
    param, cursor = ("Last-Event-ID", last_event_id) if last_event_id is not None else ("after", after)
    job = await run_sync(_find, app, caller.project_id, job_id)
    if int(cursor) > job.last_event_seq:
        raise jobs.unknown_event(param, cursor)
    return EventSourceResponse(
        _events(app, caller.key_id, job_id, int(cursor)),
        ping=PING_SECONDS,
        ping_message_factory=Ping,
        send_timeout=SEND_TIMEOUT_SECONDS,
        headers={"cache-control": "no-store"},
    )


async def _events(app: Services, key_id: str, job_id: str, last_sent: int) -> AsyncIterator[ServerSentEvent]:
    """The cursor is the only state: a slow reader costs nothing but its connection."""
    checked_at = time.monotonic()
    with app.wakeups.of(job_id) as wait:
        while True:
            if time.monotonic() - checked_at > KEY_CHECK_SECONDS:
                with suppress(*AWAY):
                    if not await run_sync(_still_welcome, app, key_id):
                        return
                    checked_at = time.monotonic()
            lines, ended_at = await run_sync(_read_when_there, app, job_id, last_sent)
            for seq, line in lines:
                yield ServerSentEvent(line, id=str(seq))
                last_sent = seq
            if ended_at is not None and last_sent >= ended_at:
                yield ServerSentEvent("[DONE]")
                return
            if not lines:
                await wait()


def _find(app: Services, project_id: str, job_id: str) -> Job:
    with app.database.read() as session:
        return jobs.get(session, project_id, job_id)


def _still_welcome(app: Services, key_id: str) -> bool:
    with app.database.read() as session:
        return keys.still_valid(session, key_id) is not None


def _read_when_there(app: Services, job_id: str, after: int) -> tuple[list[tuple[int, str]], int | None]:
    """Nothing while the database is away: its readers would only come back, all at once."""
    try:
        return _read(app, job_id, after)
    except AWAY:
        return [], None


def _read(app: Services, job_id: str, after: int) -> tuple[list[tuple[int, str]], int | None]:
    """The next events, and the number of the last one there will ever be, once that is certain."""
    with app.database.read() as session:
        job = session.get(Job, job_id)  # before the events: what it counts is then there to be read
        if job is None:  # deleted under a reader that was not done yet
            return [], after
        events = repository.events_after(session, job_id, after=after, limit=PAGE)
    lines = [(event.seq, json.dumps(EventObject.of(event).model_dump())) for event in events]
    return lines, job.last_event_seq if job.status in TERMINAL else None
