from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.errors import InvalidRequest
from app.http.dependencies import ServicesDep
from app.http.event_stream import event_stream
from app.jobs import listing
from app.jobs.listing import SORTS, JobQuery
from app.jobs.presenter import to_objects
from app.jobs.schemas import JobObject
from app.models import Job, JobStatus
from app.models.job_lifecycle import LIVE
from app.services import Services
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


def _query(
    q: Annotated[str, Query(max_length=256)] = "",
    status: str = "",
    sort: str = "-created",
    number: Annotated[int, Query(ge=1, le=MAX_PAGE, alias="page")] = 1,
) -> JobQuery:
    if status and status not in list(JobStatus):
        raise InvalidRequest(
            f"status: no job is '{status}'; there are {', '.join(JobStatus)}.", param="status"
        )
    column = sort.removeprefix("-")
    if column not in SORTS:
        raise InvalidRequest(
            f"sort: jobs are not sorted by '{column}'; they are by {', '.join(SORTS)}.",
            param="sort",
        )
    return JobQuery(
        q.strip(), JobStatus(status) if status else None, column, sort.startswith("-"), number
    )


JobQueryParams = Annotated[JobQuery, Depends(_query)]


@router.get("/")
def jobs_page(
    services: ServicesDep, request: Request, caller: Visitor, query: JobQueryParams
) -> Response:
    with services.database.read() as session:
        context = table_context(session, services, caller, query)
    return page(request, "jobs/page.html", caller, **context)


@streams.get("/live")
def jobs_stream(
    services: ServicesDep, request: Request, caller: Visitor, query: JobQueryParams
) -> EventSourceResponse:
    """Send the rows of the same page, as they change; the whole table when other rows come to stand
    on it.
    """
    sent_ids: list[str] = []
    context = shared(request, caller)

    def render() -> live.Parts:
        with services.database.read() as session:
            table = table_context(session, services, caller, query)
        row_ids = [row.job.id for row in table["rows"]]
        if row_ids != sent_ids:
            sent_ids[:] = row_ids
            return {"jobs": fragment("jobs/list.html", **context, **table)}
        rows = {
            f"row-{row.job.id}": fragment("jobs/row.html", **context, row=row)
            for row in table["rows"]
        }
        return {"summary": fragment("jobs/summary.html", **context, **table)} | rows

    return event_stream(live.parts(services, caller.key_id, caller.project_id, render))


def address(query: JobQuery, **changed: Any) -> str:
    """Return the query of the same table with something else about it; turning to another order
    begins at its first page.
    """
    new = query._replace(**({"page": 1} | changed))
    sort = f"{'-' if new.descending else ''}{new.sort}"
    pairs: dict[str, str | int | None] = {"q": new.search, "status": new.status}
    if sort != "-created":
        pairs["sort"] = sort
    if new.page != 1:
        pairs["page"] = new.page
    return urlencode({name: value for name, value in pairs.items() if value})


def table_context(
    session: Session, services: Services, caller: Caller, query: JobQuery
) -> dict[str, Any]:
    job_page = listing.find_page(session, caller.project_id, query)
    sparklines = listing.sparklines(session, job_page.jobs)
    objects = to_objects(session, services.settings, job_page.jobs)
    rows = [
        _row(job, object_, sparklines.get(job.id, []))
        for job, object_ in zip(job_page.jobs, objects, strict=True)
    ]
    return {
        "rows": rows,
        "job_page": job_page,
        "query": query,
        "address": address,
        "statuses": list(JobStatus),
    }


def _row(job: Job, job_object: JobObject, sparkline: list[tuple[int, float]]) -> Row:
    loss = list(sparkline)
    newest = job.progress
    if loss and newest and newest.train_loss is not None and newest.step > loss[-1][0]:
        loss.append((newest.step, newest.train_loss))  # which the pick may have missed
    return Row(job_object, state(job), job.status in LIVE, loss)
