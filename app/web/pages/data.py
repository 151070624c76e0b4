from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from starlette.responses import RedirectResponse

from app.catalogue import service as catalogue
from app.errors import ApiError
from app.files import endpoints
from app.files import service as files
from app.files.schemas import FileForm, FileObject
from app.http.dependencies import TOUCHES_STORAGE, App
from app.inspections import service as inspections
from app.jobs import service as jobs
from app.models import FileStatus, Purpose
from app.web.file_view import view
from app.web.pages.new_job import DEFAULT_MAX_SEQ_LENGTH
from app.web.rendering import page
from app.web.session import notify
from app.web.text import state
from app.web.visitor import CHANGES, MAX_FORM_BYTES, PageRoute, UploadPageRoute, Visitor, WritingVisitor
from falqon_core.estimate.estimate import tokens_from_characters
from falqon_core.records.file_check import FileReport

PAGE = 50
MAX_JOBS = 20  # of one file, shown on its page
NEW_JOB = "/jobs/new"

router = APIRouter(prefix="/data", route_class=PageRoute)
uploads = APIRouter(prefix="/data", route_class=UploadPageRoute)


class Row(NamedTuple):
    file: FileObject
    report: FileReport | None
    tokens: int | None
    are_counted: bool  # by a tokenizer; otherwise they are told from the characters
    num_jobs: int

    @property
    def is_pending(self) -> bool:
        return self.file.status == FileStatus.UPLOADED


@router.get("")
def data_page(app: App, request: Request, caller: Visitor, after: Annotated[str | None, Query(max_length=256)] = None) -> Response:
    found = endpoints.list_files(app, caller, after, PAGE)
    ids = [file.id for file in found.data]
    with app.database.read() as session:
        counted, used = inspections.tokens_of(session, caller.project_id, ids), jobs.num_using(session, caller.project_id, ids)
    rows = [_row(file, counted.get(file.id), used.get(file.id, 0)) for file in found.data]
    return page(request, "data/page.html", caller, rows=rows, after=after, more=found.last_id if found.has_more else "")


@uploads.post("", dependencies=[*CHANGES, *TOUCHES_STORAGE])
def upload(
    app: App, request: Request, caller: WritingVisitor, file: Annotated[UploadFile, File()], back: Annotated[str, Form()] = ""
) -> Response:
    added = endpoints.create_file(app, caller, FileForm(file=file, purpose=Purpose.FINE_TUNE))
    return RedirectResponse(f"{NEW_JOB}?training_file={added.id}" if back == NEW_JOB else f"/data/{added.id}", 303)


@router.get("/{file_id}")
def file_page(
    app: App,
    request: Request,
    caller: Visitor,
    file_id: str,
    model: Annotated[str, Query(max_length=256)] = "",
    max_seq_length: Annotated[int, Query(ge=8, le=1_048_576)] = DEFAULT_MAX_SEQ_LENGTH,
) -> Response:
    with app.database.read() as session:
        asked = inspections.all_of(session, files.get(session, caller.project_id, file_id))
        models = catalogue.trainable(session, caller.project_id)
        using = [(job, state(job)) for job in jobs.using(session, caller.project_id, file_id, limit=MAX_JOBS)]
        num_using = jobs.num_using(session, caller.project_id, [file_id]).get(file_id, 0)
    if not model and asked:
        model, max_seq_length = asked[-1].model, asked[-1].max_seq_length
    if model and model not in models:  # older than those that are offered
        models.append(model)
    context: dict[str, Any] = {"models": models, "model": model, "max_seq_length": max_seq_length, "using": using, "num_using": num_using}
    return page(request, "data/file.html", caller, data=view(app, caller, file_id, model, max_seq_length), **context)


@router.get("/{file_id}/content", dependencies=TOUCHES_STORAGE)
def file_content(app: App, request: Request, caller: Visitor, file_id: str) -> Response:
    return endpoints.retrieve_content(app, caller, request, file_id)


@router.post("/{file_id}/delete", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def delete(app: App, request: Request, caller: WritingVisitor, file_id: str) -> RedirectResponse:
    try:
        endpoints.delete_file(app, caller, file_id)
    except ApiError as error:
        notify(request, error.message, failed=True)
        return RedirectResponse(f"/data/{file_id}", 303)
    notify(request, f"{file_id} is deleted.")
    return RedirectResponse("/data", 303)


def _row(file: FileObject, counted: int | None, num_jobs: int) -> Row:
    report = FileReport.model_validate(file.report) if file.report else None
    told = tokens_from_characters(report.num_characters, report.num_sequences) if report and report.num_records else None
    return Row(file, report, told if counted is None else counted, counted is not None, num_jobs)
