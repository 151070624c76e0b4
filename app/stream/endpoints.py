import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Annotated, TypeVar

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.database import AWAY, Database
from app.http.dependencies import ApiRoute, App, Reader, Services
from app.jobs import listing, repository
from app.jobs import service as jobs
from app.jobs.lifecycle import TERMINAL
from app.jobs.schemas import EventObject
from app.keys import service as keys
from app.models import Job
from app.stream.wakeup import Seen
from app.stream.watched import Page

PAGE = 200
PING_SECONDS = 15
AWAY_SECONDS = 1.0  # between two looks for the database
SEND_TIMEOUT_SECONDS = 10  # a reader that takes nothing for so long is gone
T = TypeVar("T")
CURSOR = r"^[0-9]{1,9}$"


class Ping(ServerSentEvent):
    """A comment and no blank line: after one, the `openai` client takes the remembered id for an event without data, and fails."""

    def encode(self) -> bytes:
        return b": ping\r\n"


router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=ApiRoute)


@router.get("/{job_id}/stream", response_class=EventSourceResponse, responses={200: {"content": {"text/event-stream": {}}}})
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
    return event_stream(_events(app, caller.key_id, job_id, int(cursor)))


def event_stream(events: AsyncIterator[bytes]) -> EventSourceResponse:
    return EventSourceResponse(
        events,
        ping=PING_SECONDS,
        ping_message_factory=Ping,
        send_timeout=SEND_TIMEOUT_SECONDS,
        headers={"cache-control": "no-store"},
    )


async def _events(app: Services, key_id: str, job_id: str, last_sent: int) -> AsyncIterator[bytes]:
    """The cursor is the only state: a slow reader costs nothing but its connection."""

    async def read(after: int) -> Page:
        return await patiently(partial(_read, app.database, job_id, after))

    with app.wakeups.watching(job_id, key_id) as job:
        while not app.wakeups.refuses(key_id):
            changed = job.changed  # taken before the page: what comes after that is not slept through
            page = await job.page(last_sent, read)
            for seq, event in page.events:
                yield event
                last_sent = seq
            if page.ended_at is not None and last_sent >= page.ended_at:
                yield ServerSentEvent("[DONE]").encode()
                return
            if not page.is_full:
                await changed.wait()


async def patiently(look: Callable[[], T]) -> T:
    """However long the database is away."""
    while True:
        try:
            return await run_sync(look)
        except AWAY:  # readers that were sent away would only come back, all at once
            await asyncio.sleep(AWAY_SECONDS)


def look(database: Database, followed: Sequence[str], key_ids: Sequence[str]) -> Seen:
    """At everything that open streams depend on."""
    job_ids = [id_ for id_ in followed if id_.startswith("ftjob-")]
    project_ids = [id_ for id_ in followed if not id_.startswith("ftjob-")]
    with database.read() as session:
        states: dict[str, object] = {**repository.states(session, job_ids)}
        if project_ids:
            states |= listing.states(session, project_ids)
        return Seen(states, keys.refused(session, key_ids))


def _find(app: Services, project_id: str, job_id: str) -> Job:
    with app.database.read() as session:
        return jobs.get(session, project_id, job_id)


def _read(database: Database, job_id: str, after: int) -> Page:
    with database.read() as session:
        job = session.get(Job, job_id)  # before the events: what it counts is then there to be read
        if job is None:  # deleted under a reader that was not done yet
            return Page([], after)
        events = repository.events_after(session, job_id, after=after, limit=PAGE)
    encoded = [(event.seq, ServerSentEvent(json.dumps(EventObject.of(event).model_dump()), id=str(event.seq)).encode()) for event in events]
    return Page(encoded, job.last_event_seq if job.status in TERMINAL else None, is_full=len(events) == PAGE)
