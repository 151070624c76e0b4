import json
from collections.abc import AsyncIterator, Sequence
from functools import partial

from app.auth import keys
from app.auth.caller import Caller
from app.base.database import Database
from app.http.event_stream import encode_event, read_with_retry
from app.jobs import listing
from app.jobs import service as jobs
from app.jobs.schemas import EventObject
from app.models import Event, Job
from app.models.job_lifecycle import TERMINAL
from app.notifier.wakeups import Changes
from app.notifier.watched import EventPage
from app.services import Services
from app.stream import repository

EVENTS_PER_PAGE = 200


def check_cursor(services: Services, caller: Caller, job_id: str, param: str, cursor: str) -> None:
    """Refuse a number that no event of the job has yet."""
    with services.database.read() as session:
        job = jobs.get(session, caller.project_id, job_id)
    if int(cursor) > job.last_event_seq:
        raise jobs.unknown_event(param, cursor)


async def follow_job(
    services: Services, caller: Caller, job_id: str, last_sent: int
) -> AsyncIterator[bytes]:
    """Yield the events of a job until it has ended.

    The cursor is the only state: a slow reader costs nothing but its connection.
    """

    async def read(after: int) -> EventPage:
        return await read_with_retry(partial(read_page, services.database, job_id, after))

    with services.wakeups.watching(job_id, caller.key_id) as watched:
        while not services.wakeups.refuses(caller.key_id):
            # Taken before the page: a later event wakes the reader.
            changed = watched.changed
            page = await watched.page(last_sent, read)
            for seq, event in page.events:
                yield event
                last_sent = seq
            if page.ended_at is not None and last_sent >= page.ended_at:
                yield encode_event("[DONE]")
                return
            if not page.has_more:
                await changed.wait()


def read_changes(database: Database, followed: Sequence[str], key_ids: Sequence[str]) -> Changes:
    """Return the state that open streams depend on."""
    job_ids = [id_ for id_ in followed if id_.startswith("ftjob-")]
    project_ids = [id_ for id_ in followed if not id_.startswith("ftjob-")]
    with database.read() as session:
        states: dict[str, object] = {**repository.states(session, job_ids)}
        if project_ids:
            states |= listing.states(session, project_ids)
        return Changes(states, keys.find_refused_keys(session, key_ids))


def read_page(database: Database, job_id: str, after: int) -> EventPage:
    with database.read() as session:
        # Read before the events: everything that it counts can then be read.
        job = session.get(Job, job_id)
        if job is None:  # deleted under a reader
            return EventPage([], after)
        events = jobs.events_after(session, job_id, after=after, limit=EVENTS_PER_PAGE)
    ended_at = job.last_event_seq if job.status in TERMINAL else None
    has_more = bool(events) and events[-1].seq < job.last_event_seq
    return EventPage([_encode(event) for event in events], ended_at, has_more)


def _encode(event: Event) -> tuple[int, bytes]:
    content = json.dumps(EventObject.of(event).model_dump())
    return event.seq, encode_event(content, id_=str(event.seq))
