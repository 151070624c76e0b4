from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.evaluations.side_by_side import read_shared
from app.files import service as files
from app.http.dependencies import ServicesDep
from app.jobs import listing, service
from app.jobs.comparison import figures_of
from app.jobs.listing import JobQuery
from app.jobs.presenter import to_objects
from app.jobs.schemas import JobObject
from app.models.job_lifecycle import LIVE
from app.services import Services
from app.web import live
from app.web.charts import charts_of
from app.web.job_comparison import measured_rows, setting_rows
from app.web.rendering import fragment, page, shared
from app.web.text import job_name, state
from app.web.visitor import PageRouter, Visitor

MIN_JOBS, MAX_JOBS = 2, 6
MAX_PAGE = 100  # of answers to the same prompts
MAX_ASKED = 2  # Models of the playground.

Jobs = Annotated[Sequence[str], Query(max_length=100)]

router = PageRouter()
streams = APIRouter()
PARTS = ("jobs", "results")  # Parts that a stream replaces.


@router.get("/compare")
def compare_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    job: Jobs = (),
    q: Annotated[str, Query(max_length=256)] = "",
    choose: bool = False,
    answers: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1,
) -> Response:
    """`answers`: the page of the answers to the same prompts."""
    chosen = list(dict.fromkeys(job))
    with services.database.read() as session:
        if choose or not MIN_JOBS <= len(chosen) <= MAX_JOBS:
            return page(
                request,
                "compare/choose.html",
                caller,
                choose=choose,
                **_choice(session, caller, chosen, q),
            )
        shared_answers = read_shared(session, caller.project_id, chosen, answers)
        return page(
            request,
            "compare/page.html",
            caller,
            **_comparison(session, services, caller, chosen),
            answers=shared_answers,
        )


@streams.get("/compare/live")
def comparison_stream(
    services: ServicesDep, request: Request, caller: Visitor, job: Jobs
) -> EventSourceResponse:
    """Send what the jobs measured as they go on."""
    if not MIN_JOBS <= len(job) <= MAX_JOBS:
        raise InvalidRequest(f"job: name {MIN_JOBS} to {MAX_JOBS}.", param="job")
    context = shared(request, caller)

    def render() -> live.Parts:
        with services.database.read() as session:
            comparison = _comparison(session, services, caller, list(job))
        return {
            f"compare-{name}": fragment(f"compare/{name}.html", **context, **comparison)
            for name in PARTS
        }

    render()  # refuses jobs that are not there
    return live.stream(services, caller, render)


def _choice(session: Session, caller: Caller, chosen: list[str], search: str) -> dict[str, Any]:
    """List what is chosen, and what matches beside it."""
    matching = listing.find_page(session, caller.project_id, JobQuery(search=search.strip())).jobs
    rows = listing.in_order(session, caller.project_id, chosen)
    rows += [job for job in matching if job.id not in chosen]
    jobs = [(job, state(job)) for job in rows]
    return {"jobs": jobs, "chosen": chosen, "fewest": MIN_JOBS, "most": MAX_JOBS, "q": search}


def _comparison(
    session: Session, services: Services, caller: Caller, ids: list[str]
) -> dict[str, Any]:
    rows = [service.get(session, caller.project_id, id_) for id_ in ids]
    jobs = to_objects(session, services.settings, rows)
    names = _names(jobs)
    figures = figures_of(session, caller.project_id, rows)
    file_ids = [id_ for job in jobs for id_ in (job.training_file, job.validation_file) if id_]
    different, same = setting_rows(jobs, files.names(session, caller.project_id, file_ids))
    models = [job.fine_tuned_model for job in jobs if job.fine_tuned_model]
    runs = [
        {"label": name, "url": f"/jobs/{job.id}/metrics"}
        for job, name in zip(jobs, names, strict=True)
    ]
    return {
        "jobs": [(job, name, state(row)) for job, name, row in zip(jobs, names, rows, strict=True)],
        "ids": ids,
        "labels": dict(zip(ids, names, strict=True)),
        "is_live": any(row.status in LIVE for row in rows),
        "measured": measured_rows(jobs, [figures[row.id] for row in rows]),
        "charts": charts_of(rows),
        "runs": runs,
        "different": different,
        "same": same,
        "models": models[:MAX_ASKED],
    }


def _names(jobs: list[JobObject]) -> list[str]:
    """Name the jobs as shortly as is clear: with the end of the id where a name is shared."""
    names = [job_name(job) for job in jobs]
    return [
        f"{name} {job.id[-8:]}" if names.count(name) > 1 else name
        for job, name in zip(jobs, names, strict=True)
    ]
