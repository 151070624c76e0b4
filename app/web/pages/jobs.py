from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse

from app.auth.caller import Caller
from app.base.errors import ApiError, InvalidRequest
from app.catalogue import service as catalogue
from app.files import service as files
from app.http.dependencies import ServicesDep
from app.jobs import listing, service
from app.jobs.presenter import to_objects
from app.models import Job, JobStatus
from app.models.job_lifecycle import LIVE
from app.services import Services
from app.studies import service as studies
from app.web import live
from app.web.forms import redirect_to
from app.web.job_groups import JobBlock, JobRow, group_by_study
from app.web.job_table import (
    COLUMNS,
    COLUMNS_COOKIE,
    COOKIE_SECONDS,
    DEFAULT,
    TableQuery,
    TableQueryParams,
    read_columns,
    remembered_columns,
)
from app.web.rendering import fragment, page, shared
from app.web.session import notify
from app.web.text import state
from app.web.visitor import TOUCHES_STORAGE, PageRouter, Visitor, WritingVisitor

MAX_OFFERED = 50  # Base models to filter by; others are typed.
MAX_CHOSEN = listing.ROWS + listing.MAX_PINNED

router = PageRouter()
streams = APIRouter()

Chosen = Annotated[list[str] | None, Form()]


@router.get("/")
def jobs_page(
    services: ServicesDep, request: Request, caller: Visitor, query: TableQueryParams
) -> Response:
    """Show the table; without columns in its address, that with those of the last choice."""
    if "columns" not in request.query_params:
        columns = remembered_columns(request)
        if columns != query.columns:
            return redirect_to(f"/?{query.address(columns, page=query.jobs.page)}")
    with services.database.read() as session:
        context = table_context(session, services, caller, query)
        models = catalogue.newest(session, None, limit=MAX_OFFERED).models
    return page(
        request,
        "jobs/page.html",
        caller,
        models=models,
        all_columns=COLUMNS,
        **context,
    )


@router.get("/columns")
def choose_columns(
    request: Request,
    caller: Visitor,
    query: TableQueryParams,
    column: Annotated[list[str] | None, Query(max_length=len(COLUMNS))] = None,
) -> Response:
    """Lead to the same table with these columns, and keep them for the next visit."""
    columns = read_columns(column or []) or DEFAULT
    answer = redirect_to(f"/?{query.address(columns)}")
    if columns == DEFAULT:
        answer.delete_cookie(COLUMNS_COOKIE)
    else:
        answer.set_cookie(
            COLUMNS_COOKIE,
            ".".join(columns),
            max_age=COOKIE_SECONDS,
            httponly=True,
            secure=request.url.scheme == "https",
            samesite="lax",
        )
    return answer


@streams.get("/live")
def jobs_stream(
    services: ServicesDep, request: Request, caller: Visitor, query: TableQueryParams
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
            f"row-{row.job.id}": fragment("jobs/row.html", **context, **table | {"row": row})
            for row in table["rows"]
        }
        of_studies = {
            f"study-row-{block.study.id}": fragment(
                "jobs/study.html", **context, **table, study=block.study
            )
            for block in table["blocks"]
            if block.study is not None
        }
        summary = fragment("jobs/summary.html", **context, **table)
        return {"summary": summary} | of_studies | rows

    return live.stream(services, caller, render)


@router.change("/jobs/cancel")
def cancel_several(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    query: TableQueryParams,
    job: Chosen = None,
) -> Response:
    cancel = partial(service.cancel_job, services, caller)
    _do_with_each(request, job or [], cancel, "cancelled; what runs stops at its next step")
    return redirect_to(f"/?{query.address(page=query.jobs.page)}")


@router.change("/jobs/delete", *TOUCHES_STORAGE)
def delete_several(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    query: TableQueryParams,
    job: Chosen = None,
) -> Response:
    _do_with_each(request, job or [], partial(service.delete_job, services, caller), "deleted")
    return redirect_to(f"/?{query.address(page=query.jobs.page)}")


def table_context(
    session: Session, services: Services, caller: Caller, query: TableQuery
) -> dict[str, Any]:
    job_page = listing.find_page(session, caller.project_id, query.jobs)
    sparklines = {}
    if "loss" in query.columns:
        sparklines = listing.sparklines(session, job_page.jobs)
    names = {}
    if "file" in query.columns:
        ids = {job.training_file_id for job in job_page.jobs}
        names = files.names(session, caller.project_id, list(ids))
    objects = to_objects(session, services.settings, job_page.jobs)
    rows = [
        JobRow(
            object_,
            state(job),
            job.status in LIVE,
            job.id in job_page.pinned,
            _loss(job, sparklines.get(job.id, [])),
            names.get(job.training_file_id, ""),
        )
        for job, object_ in zip(job_page.jobs, objects, strict=True)
    ]
    study_ids = {job.study_id for job in job_page.jobs if job.study_id is not None}
    study_names = studies.names(session, caller.project_id, study_ids)
    blocks = [JobBlock(None, rows)]
    if query.jobs.sort == "created":  # Another order is one of single jobs.
        blocks = group_by_study(session, caller.project_id, rows, study_names)
    return {
        "rows": rows,
        "blocks": blocks,
        "study_labels": {
            row.job.id: study_names[row.job.study_id]
            for block in blocks
            for row in block.rows
            if block.study is None and row.job.study_id in study_names
        },
        "job_page": job_page,
        "query": query.jobs,
        "table": query,
        "columns": {name: COLUMNS[name] for name in query.columns},
        "sorts": listing.SORTS,
        "are_default": query.columns == DEFAULT,
        "statuses": list(JobStatus),
    }


def _do_with_each(
    request: Request, ids: Sequence[str], do: Callable[[str], object], outcome: str
) -> None:
    """Do it with each job, also after one with which it cannot be done, and say what came of it."""
    ids = list(dict.fromkeys(ids))
    if len(ids) > MAX_CHOSEN:
        raise InvalidRequest(f"job: {len(ids)} are chosen; at most {MAX_CHOSEN} can be at once.")
    refusals = []
    for id_ in ids:
        try:
            do(id_)
        except ApiError as error:
            refusals.append(f"{id_}: {error.message}")
    num_done = len(ids) - len(refusals)
    sentences = [f"{num_done} {'job is' if num_done == 1 else 'jobs are'} {outcome}."]
    if not ids:
        sentences = ["No job was chosen."]
    notify(request, " ".join(sentences + refusals), failed=num_done < len(ids) or not ids)


def _loss(job: Job, sparkline: list[tuple[int, float]]) -> list[tuple[int, float]]:
    loss = list(sparkline)
    newest = job.progress
    if loss and newest and newest.train_loss is not None and newest.step > loss[-1][0]:
        loss.append((newest.step, newest.train_loss))  # The sample may have missed the newest step.
    return loss
