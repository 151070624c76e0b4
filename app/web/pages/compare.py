from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.http.dependencies import ServicesDep
from app.jobs import listing, service
from app.jobs.comparison import figures_of, recipe_of
from app.jobs.listing import JobQuery
from app.jobs.presenter import to_objects
from app.jobs.schemas import JobObject
from app.models.job_lifecycle import LIVE
from app.services import Services
from app.web import live
from app.web.charts import charts_of
from app.web.rendering import fragment, page, shared
from app.web.text import state
from app.web.visitor import PageRouter, Visitor
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.estimate.comparison import NOTES, combine, filled_columns

MIN_JOBS, MAX_JOBS = 2, 6

Jobs = Annotated[Sequence[str], Query(max_length=100)]

router = PageRouter()
streams = APIRouter()
PARTS = ("jobs", "figures", "results")  # Parts that a stream replaces.


@dataclass(frozen=True, slots=True)
class SettingRow:
    name: str
    values: list[Any]  # One value for each job; None where it has none.
    is_same: bool


@router.get("/compare")
def compare_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    job: Jobs = (),
    q: Annotated[str, Query(max_length=256)] = "",
    choose: bool = False,
) -> Response:
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
        return page(
            request, "compare/page.html", caller, **_comparison(session, services, caller, chosen)
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
    differences = _differences(jobs)
    names = _names(jobs)
    figures = figures_of(session, caller.project_id, rows)
    table = [
        combine(name, recipe_of(row), [figures[row.id]])
        for row, name in zip(rows, names, strict=True)
    ]
    runs = [
        {"label": name, "url": f"/jobs/{job.id}/metrics"}
        for job, name in zip(jobs, names, strict=True)
    ]
    return {
        "jobs": [(job, name, state(row)) for job, name, row in zip(jobs, names, rows, strict=True)],
        "ids": ids,
        "is_live": any(row.status in LIVE for row in rows),
        "table": table,
        "columns": [column for column in filled_columns(table) if column.field != "num_jobs"],
        "notes": NOTES,
        "titles": {name: spec.title for name, spec in METHOD_SPECS.items()},
        "charts": charts_of(rows),
        "runs": runs,
        "different": [difference for difference in differences if not difference.is_same],
        "same": [difference for difference in differences if difference.is_same],
    }


def _names(jobs: list[JobObject]) -> list[str]:
    """Name the jobs as shortly as is clear: with the end of the id where a suffix is shared."""
    suffixes = [job.suffix for job in jobs]
    return [
        f"{job.suffix or 'job'} {job.id[-8:]}"
        if suffixes.count(job.suffix) > 1 or not job.suffix
        else job.suffix
        for job in jobs
    ]


def _differences(jobs: list[JobObject]) -> list[SettingRow]:
    settings = [
        {
            "model": job.model,
            "training_file": job.training_file,
            "validation_file": job.validation_file,
        }
        | (job.config or {})
        for job in jobs
    ]
    names = list(dict.fromkeys(name for of_job in settings for name in of_job))
    rows = [(name, [of_job.get(name) for of_job in settings]) for name in names]
    return [
        SettingRow(name, values, all(value == values[0] for value in values))
        for name, values in rows
    ]
