from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.errors import InvalidRequest
from app.http.dependencies import App, Services
from app.jobs import listing
from app.jobs.lifecycle import LIVE
from app.jobs.listing import SORTS, Wanted
from app.jobs.presenter import show
from app.jobs.schemas import JobObject
from app.models import Job, JobStatus
from app.stream.endpoints import event_stream
from app.web import live
from app.web.rendering import fragment, page, shared
from app.web.text import state
from app.web.visitor import PageRoute, Visitor

MAX_PAGE = 100_000

router = APIRouter(route_class=PageRoute)
streams = APIRouter()


class Row(NamedTuple):
    job: JobObject
    state: str
    is_live: bool
    loss: list[tuple[int, float]]


def _wanted(
    q: Annotated[str, Query(max_length=256)] = "",
    status: str = "",
    sort: str = "-created",
    number: Annotated[int, Query(ge=1, le=MAX_PAGE, alias="page")] = 1,
) -> Wanted:
    if status and status not in list(JobStatus):
        raise InvalidRequest(f"status: no job is '{status}'; there are {', '.join(JobStatus)}.", param="status")
    column = sort.removeprefix("-")
    if column not in SORTS:
        raise InvalidRequest(f"sort: jobs are not sorted by '{column}'; they are by {', '.join(SORTS)}.", param="sort")
    return Wanted(q.strip(), JobStatus(status) if status else None, column, sort.startswith("-"), number)


WantedRows = Annotated[Wanted, Depends(_wanted)]


@router.get("/")
def jobs_page(app: App, request: Request, caller: Visitor, wanted: WantedRows) -> Response:
    with app.database.read() as session:
        context = shown_table(session, app, caller, wanted)
    return page(request, "jobs/page.html", caller, **context)


@streams.get("/live")
def jobs_stream(app: App, request: Request, caller: Visitor, wanted: WantedRows) -> EventSourceResponse:
    """The rows of the same page, as they change; the whole table when other rows come to stand on it."""
    known: list[str] = []
    context = shared(request, caller)

    def render() -> live.Parts:
        with app.database.read() as session:
            found = shown_table(session, app, caller, wanted)
        row_ids = [row.job.id for row in found["rows"]]
        if row_ids != known:
            known[:] = row_ids
            return {"jobs": fragment("jobs/list.html", **context, **found)}
        rows = {f"row-{row.job.id}": fragment("jobs/row.html", **context, row=row) for row in found["rows"]}
        return {"summary": fragment("jobs/summary.html", **context, **found)} | rows

    return event_stream(live.parts(app, caller.key_id, caller.project_id, render))


def address(wanted: Wanted, **changed: Any) -> str:
    """The query of the same table with something else about it; turning to another order begins at its first page."""
    new = wanted._replace(**({"page": 1} | changed))
    sort = f"{'-' if new.descending else ''}{new.sort}"
    pairs = {"q": new.search, "status": new.status, "sort": "" if sort == "-created" else sort, "page": "" if new.page == 1 else new.page}
    return urlencode({name: value for name, value in pairs.items() if value})


def shown_table(session: Session, app: Services, caller: Caller, wanted: Wanted) -> dict[str, Any]:
    found = listing.find(session, caller.project_id, wanted)
    sparks = listing.sparks(session, found.jobs)
    shown = show(session, app.settings, found.jobs)
    rows = [_row(job, object_, sparks) for job, object_ in zip(found.jobs, shown, strict=True)]
    return {"rows": rows, "found": found, "wanted": wanted, "address": address, "statuses": list(JobStatus)}


def _row(job: Job, shown: JobObject, sparks: dict[str, list[tuple[int, float]]]) -> Row:
    loss, at = list(sparks.get(job.id, [])), job.progress or {}
    if loss and at.get("train_loss") is not None and at["step"] > loss[-1][0]:
        loss.append((at["step"], at["train_loss"]))  # the newest, which the pick may have missed
    return Row(shown, state(job), job.status in LIVE, loss)
