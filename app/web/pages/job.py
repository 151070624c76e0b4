import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse
from starlette.responses import HTMLResponse, StreamingResponse

from app.artifacts import service as artifacts
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.http import downloads
from app.http.dependencies import ServicesDep
from app.http.event_stream import CURSOR_PATTERN, encode_event, event_stream
from app.jobs import metrics, service
from app.jobs.readings import number, step_of
from app.jobs.schemas import MetricsObject
from app.models.base import JsonObject
from app.models.job_lifecycle import TERMINAL
from app.services import Services
from app.web import charts, job_view, live
from app.web.headers import attachment
from app.web.job_header import Points
from app.web.job_view import PROGRESS_PARTS, RESULT_PARTS
from app.web.rendering import fragment, page, shared
from app.web.visitor import TOUCHES_STORAGE, PageRouter, Visitor

router = PageRouter()
streams = APIRouter()
MAX_LOG_CHARACTERS = 65_536  # Characters that a page shows.
MESSAGE_EVENTS = 200  # Events of one message at most.
WAITING_SECONDS = 5.0  # Interval of updates of a waiting job: others move in the queue.
END_EVENT = encode_event("", event="ended")


@dataclass(frozen=True, slots=True)
class News:
    """Updates for a page that has seen every event up to some number."""

    seq: int
    validation: Points
    points: list[dict[str, float]]
    lines: list[job_view.LogLine]
    parts: live.Parts
    has_more: bool  # there may be more
    is_last: bool
    is_waiting: bool  # The job is in the queue.


@router.get("/jobs/{job_id}")
def job_page(services: ServicesDep, request: Request, caller: Visitor, job_id: str) -> Response:
    return show_job(services, request, caller, job_id)


def show_job(
    services: Services,
    request: Request,
    caller: Caller,
    job_id: str,
    typed: Mapping[str, str] | None = None,
) -> Response:
    """`typed`: into the fields of the budget, where that was refused."""
    with services.database.read() as session:
        context = job_view.progress_context(session, services, caller, job_id)
        row = context["row"]
        origin = shared(request, caller)["origin"]
        context |= job_view.results_context(session, caller, row, origin) | {
            "outline": job_view.outline(session, row),
            "charts": charts.charts_of([row]),
        }
    status_code = 200 if typed is None else 400
    return page(request, "job/page.html", caller, status_code, **context, typed=typed)


@router.get("/jobs/{job_id}/metrics")
def job_metrics(services: ServicesDep, caller: Visitor, job_id: str, format: str = "json") -> Any:
    """Return the series of the charts and whether more may come, or as CSV all measurements."""
    if format == "csv":
        headers = attachment(f"{job_id}-metrics.csv")
        content = service.write_metrics_csv(services, caller, job_id)
        return StreamingResponse(content, media_type="text/csv", headers=headers)
    with services.database.read() as session:
        # The status is read before the series: those of an ended job are complete.
        has_ended = service.get(session, caller.project_id, job_id).status in TERMINAL
    metrics_object = MetricsObject.of(job_id, charts.read_series(services, caller, job_id))
    return {**metrics_object.model_dump(), "has_ended": has_ended}


@router.get("/jobs/{job_id}/events")
def job_events(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    job_id: str,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
) -> Response:
    """Show messages older than a number: on a page, or for its script as more of the job's page."""
    with services.database.read() as session:
        job = service.get(session, caller.project_id, job_id)
        messages, older_than = job_view.read_messages(session, job_id, before)
    context: dict[str, Any] = {
        "row": job,
        "lines": job_view.lines(messages),
        "older_than": older_than,
    }
    if "hx-request" not in request.headers:
        return page(request, "job/messages.html", caller, **context, before=before)
    more = live.partial("#events", "beforeend", fragment("job/events.html", **context))
    older = live.partial("#older-events", "outerMorph", fragment("job/older.html", **context))
    return HTMLResponse(more + older)


@router.get("/jobs/{job_id}/log", dependencies=TOUCHES_STORAGE)
def job_log(
    services: ServicesDep,
    caller: Visitor,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    after: Annotated[int, Query(ge=0, lt=2**62)] = 0,
    format: str = "html",
) -> Response:
    """Return the end of a trainer's log as a part of a page, or all of it as text. Who has what is
    there so far gets nothing while the trainer runs.
    """
    with services.database.read() as session:
        row = service.attempt_with_log(
            session, service.get(session, caller.project_id, job_id), attempt
        )
    if row is None:
        raise NotFound("The job has no log.")
    is_live = row.ended_at is None
    if is_live and 0 < row.log_bytes <= after:
        return Response(status_code=204)
    log = service.read_log(services, caller, job_id, row.number)
    if format == "text":
        name = f"{job_id}-{row.number}.log"
        headers = attachment(name)
        return Response(log.text, media_type="text/plain", headers=headers)
    text = log.text
    if len(text) > MAX_LOG_CHARACTERS:
        text = text[-MAX_LOG_CHARACTERS:].partition("\n")[2]
    return HTMLResponse(fragment("job/log_text.html", log=log, text=text, is_live=is_live))


@router.get("/jobs/{job_id}/artifacts/{name:path}", dependencies=TOUCHES_STORAGE)
def job_artifact(
    services: ServicesDep, request: Request, caller: Visitor, job_id: str, name: str
) -> Response:
    with services.database.read() as session:
        job = service.get(session, caller.project_id, job_id)
        if job.fine_tuned_model_id is None:
            raise NotFound("The job has made no model.")
    content = artifacts.retrieve_artifact(services, caller, job.fine_tuned_model_id, name)
    return downloads.send(
        request, services.storage, content, redirects=services.settings.download_redirects
    )


@streams.get("/jobs/{job_id}/live")
async def job_stream(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    job_id: str,
    after: Annotated[str, Query(pattern=CURSOR_PATTERN)] = "0",
    last_event_id: Annotated[str | None, Header(pattern=CURSOR_PATTERN)] = None,
) -> EventSourceResponse:
    """Send the events after a number, as points for the charts and lines for the log, with the
    parts of the page that they change.
    """
    await run_sync(_check, services, caller, job_id)
    return event_stream(_events(services, request, caller, job_id, int(last_event_id or after)))


async def _events(
    services: Services, request: Request, caller: Caller, job_id: str, seq: int
) -> AsyncIterator[bytes]:
    context = shared(request, caller)
    sent: live.Parts = {}
    validation: Points | None = None
    with services.wakeups.watching(job_id, caller.key_id) as watched:
        while not services.wakeups.refuses(caller.key_id):
            # The ticket is taken before the poll, so that a later notification is not slept
            # through.
            changed = watched.changed
            poll = partial(
                _poll, services, caller, job_id, seq, context, validation, is_first=not sent
            )
            began = time.monotonic()
            try:
                news = await live.read_in_turn(poll)
            except NotFound:  # deleted meanwhile
                yield END_EVENT
                return
            for message in _messages(news, sent, context):
                yield message
            took = time.monotonic() - began
            seq = news.seq
            validation = news.validation
            sent = {**sent, **news.parts}
            if news.is_last:
                yield END_EVENT
                return
            if not news.has_more:
                await live.rest(changed, WAITING_SECONDS if news.is_waiting else None, took)


def _messages(news: News, sent: live.Parts, context: dict[str, Any]) -> list[bytes]:
    """The last one carries the number: a reader that loses the connection before it gets them all
    again, which does no harm.
    """
    html = live.replaced(sent, news.parts)
    if news.lines:
        html += live.partial(
            "#events", "afterbegin", fragment("job/events.html", **context, lines=news.lines)
        )
    seq = str(news.seq)
    messages = []
    if news.points:
        points = json.dumps(news.points)
        messages.append(encode_event(points, event="metrics", id_=None if html else seq))
    if html:
        messages.append(encode_event(html, id_=seq))
    return messages


def _poll(
    services: Services,
    caller: Caller,
    job_id: str,
    after: int,
    context: dict[str, Any],
    validation: Points | None,
    *,
    is_first: bool,
) -> News:
    with services.database.read() as session:
        events = service.events_after(session, job_id, after=after, limit=MESSAGE_EVENTS)
        messages = [event for event in reversed(events) if event.type == "message"]
        # Messages say among other things that an attempt began, before steps that count no more.
        if messages or any("valid_loss" in (event.data or {}) for event in events):
            validation = None
        values = job_view.progress_context(session, services, caller, job_id, validation)
        row = values["row"]
        names: tuple[str, ...] = PROGRESS_PARTS
        # No message tells that the last step is done.
        if is_first or messages or (events and values["is_exporting"]):
            values |= job_view.results_context(session, caller, row, context["origin"])
            names = (*PROGRESS_PARTS, *RESULT_PARTS)
    seq = events[-1].seq if events else after
    return News(
        seq=seq,
        validation=values["validation"],
        points=[
            _point(event.data or {}, step)
            for event in events
            if event.type == "metrics" and (step := step_of(event.data)) is not None
        ],
        lines=job_view.lines(messages),
        parts={f"job-{name}": fragment(f"job/{name}.html", **context, **values) for name in names},
        has_more=bool(events) and seq < row.last_event_seq,
        is_last=values["has_ended"] and seq >= row.last_event_seq,
        is_waiting=row.is_waiting,
    )


def _point(data: JsonObject, step: int) -> dict[str, float]:
    values = {key: number(key, data[key]) for key in data if key in metrics.KEYS}
    return {"step": step} | {key: value for key, value in values.items() if value is not None}


def _check(services: Services, caller: Caller, job_id: str) -> None:
    with services.database.read() as session:
        service.get(session, caller.project_id, job_id)
