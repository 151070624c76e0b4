from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse
from starlette.responses import RedirectResponse

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.files import service as files
from app.http.dependencies import After, ServicesDep
from app.jobs import service as jobs
from app.jobs.comparison import recipe_of
from app.models import Job, Study
from app.models.job_lifecycle import LIVE
from app.services import Services
from app.studies import service
from app.studies.schemas import ListedStudyObject
from app.web import live
from app.web.charts import charts_of
from app.web.forms import notify_refusals, redirect_to
from app.web.headers import attachment
from app.web.rendering import fragment, page, shared
from app.web.session import notify
from app.web.text import state
from app.web.visitor import PageRouter, Visitor, WritingVisitor
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.estimate.comparison import (
    COLUMNS,
    NOTES,
    PAPER_NOTE,
    ComparisonColumn,
    ComparisonRow,
    filled_columns,
    sort_rows,
    to_csv,
    to_markdown,
)

PAGE_SIZE = 50
# Figures of other models, which the downloads have.
PAPER_FIELDS = ("paper_seconds_per_step", "paper_mmlu")
SORTS = ("method", *(column.field for column in COLUMNS))

router = PageRouter()
streams = APIRouter()


@dataclass(frozen=True, slots=True)
class MethodJobs:
    """The jobs of one method. `series`: the colour of its curve, from 1."""

    series: int
    jobs: list[tuple[Job, str, str]]  # Each job with its label and its state.


@router.get("/studies")
def studies_page(
    services: ServicesDep, request: Request, caller: Visitor, after: After = None
) -> Response:
    return page(request, "studies/list.html", caller, **_list(services, caller, after))


@router.get("/studies/{study_id}")
def study_page(
    services: ServicesDep, request: Request, caller: Visitor, study_id: str, sort: str = ""
) -> Response:
    with services.database.read() as session:
        study = service.get(session, caller.project_id, study_id)
        of_study = jobs.list_of_studies(session, caller.project_id, [study_id])[study_id]
        context = _table(session, study, of_study, sort)
        ids = [study.requested.training_file, study.requested.validation_file]
        context["files"] = files.names(session, caller.project_id, [id_ for id_ in ids if id_])
    return page(
        request,
        "studies/page.html",
        caller,
        **context,
        charts=charts_of(of_study),
        notes=[note for note in NOTES if note != PAPER_NOTE],
    )


@router.get("/studies/{study_id}/table.md")
def study_markdown(services: ServicesDep, caller: Visitor, study_id: str) -> Response:
    table = to_markdown(service.read_table(services, caller, study_id))
    return _download(table, f"{study_id}.md", "text/markdown")


@router.get("/studies/{study_id}/table.csv")
def study_csv(services: ServicesDep, caller: Visitor, study_id: str) -> Response:
    table = to_csv(service.read_table(services, caller, study_id))
    return _download(table, f"{study_id}.csv", "text/csv")


@router.change("/studies/{study_id}/cancel")
def cancel_study(
    services: ServicesDep, request: Request, caller: WritingVisitor, study_id: str
) -> RedirectResponse:
    with notify_refusals(request):
        service.cancel_study(services, caller, study_id)
        notify(request, "Jobs cancelled. Running jobs stop at their next step.")
    return redirect_to(f"/studies/{study_id}")


@streams.get("/studies/live")
def studies_stream(
    services: ServicesDep, request: Request, caller: Visitor, after: After = None
) -> EventSourceResponse:
    """Send the list as jobs go on and studies are made."""
    context = shared(request, caller)

    def render() -> live.Parts:
        studies = _list(services, caller, after)
        return {"studies": fragment("studies/rows.html", **context, **studies)}

    render()  # refuses what is no study
    return live.stream(services, caller, render)


@streams.get("/studies/{study_id}/live")
def study_stream(
    services: ServicesDep, request: Request, caller: Visitor, study_id: str, sort: str = ""
) -> EventSourceResponse:
    """Send the table as its jobs go on."""
    with services.database.read() as session:
        study = service.get(session, caller.project_id, study_id)
    context = shared(request, caller)

    def render() -> live.Parts:
        with services.database.read() as session:
            of_study = jobs.list_of_studies(session, caller.project_id, [study_id])[study_id]
            table = _table(session, study, of_study, sort)
        return {"study": fragment("studies/table.html", **context, **table)}

    return live.stream(services, caller, render)


def _list(services: Services, caller: Caller, after: str | None) -> dict[str, Any]:
    return {
        "studies": service.list_studies(services, caller, after=after, limit=PAGE_SIZE),
        "titles": {name: spec.title for name, spec in METHOD_SPECS.items()},
        "after": after,
    }


def _table(session: Session, study: Study, of_study: Sequence[Job], sort: str) -> dict[str, Any]:
    """Return the rows of the table. `sort`: a field of its rows, after a minus the largest
    first.
    """
    field = sort.removeprefix("-")
    if field and field not in SORTS:
        raise InvalidRequest(f"sort: a study is not sorted by '{field}'.", param="sort")
    has_rates = len(study.requested.rate_factors) > 1
    compared = service.compare(session, study.project_id, of_study)
    rows = [method.row for method in compared]
    if field:
        rows = sort_rows(rows, field, descending=sort.startswith("-"))
    columns = [column for column in filled_columns(rows) if column.field not in PAPER_FIELDS]
    alike = [column for column in columns if _is_alike(column, rows)]
    return {
        "study": ListedStudyObject.of(study, of_study),
        "rows": rows,
        "columns": [column for column in columns if column not in alike],
        "alike": [(column.title, column.write(rows[0])) for column in alike],
        "best": {column.field: column.best(rows) for column in columns},
        "by_method": _by_method(of_study, has_rates),
        "has_rates": has_rates,
        "runs": [
            {"label": method.row.name, "url": f"/jobs/{method.jobs[0].id}/metrics"}
            for method in compared
        ],
        "sort": sort,
        "address": lambda name, descending: f"?sort={'-' if descending else ''}{name}",
        "is_live": any(job.status in LIVE for job in of_study),
    }


def _is_alike(column: ComparisonColumn, rows: Sequence[ComparisonRow]) -> bool:
    """Return True if the column says the same of several rows."""
    return len(rows) > 1 and len({column.write(row) for row in rows}) == 1


def _by_method(of_study: Sequence[Job], has_rates: bool) -> dict[str, MethodJobs]:
    grouped: dict[str, MethodJobs] = {}
    for job in of_study:
        recipe = recipe_of(job)
        label = f"seed {recipe.seed}"
        if has_rates:
            label = f"rate {recipe.learning_rate:g}, {label}"
        alike = grouped.setdefault(recipe.method, MethodJobs(len(grouped) + 1, []))
        alike.jobs.append((job, label, state(job)))
    return grouped


def _download(text: str, name: str, media_type: str) -> Response:
    headers = attachment(name)
    return Response(text, media_type=media_type, headers=headers)
