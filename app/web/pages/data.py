from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from starlette.responses import RedirectResponse

from app.auth.caller import Caller
from app.base.errors import BytesMissing
from app.catalogue import service as catalogue
from app.dataset_statistics import service as dataset_statistics
from app.files import cleaning, examples
from app.files import service as files
from app.files.schemas import FileObject, SourceRequest
from app.files.sending import send_content
from app.files.tables import MAX_MAPPING_CHARACTERS, parse_filename, parse_mapping
from app.http.dependencies import ServicesDep
from app.jobs import service as jobs
from app.models import FileStatus, Purpose
from app.services import Services
from app.web.file_view import MENU_FIELDS, guess_columns, view_file
from app.web.forms import EMPTY_FORM, TypedForm, notify_refusals, parse_form, redirect_to
from app.web.pages.new_job import DEFAULT_MAX_SEQ_LENGTH
from app.web.rendering import page
from app.web.session import notify
from app.web.text import state
from app.web.visitor import (
    CHANGES,
    TOUCHES_STORAGE,
    PageRouter,
    UploadPageRoute,
    Visitor,
    WritingVisitor,
)
from falqon_core.contract.template_kwargs import write_template_kwargs
from falqon_core.estimate.estimate import tokens_from_characters
from falqon_core.records.file_check import FileReport

PAGE_SIZE = 50
MAX_COLUMN = 512  # Characters of a column's name.
MAX_JOBS = 20  # Jobs of one file, shown on its page.
NEW_JOB = "/jobs/new"
# Files for anything else have a tab where there are some.
TABS = {Purpose.FINE_TUNE: "Training files", Purpose.FINE_TUNE_RESULTS: "Results"}
ALL: Literal["all"] = "all"
Tab = Purpose | Literal["all"]

router = PageRouter("/data")
uploads = APIRouter(prefix="/data", route_class=UploadPageRoute)


def _mapped_columns(
    prompt: Annotated[str, Form(max_length=MAX_COLUMN)] = "",
    completion: Annotated[str, Form(max_length=MAX_COLUMN)] = "",
    messages: Annotated[str, Form(max_length=MAX_COLUMN)] = "",
    text: Annotated[str, Form(max_length=MAX_COLUMN)] = "",
    chosen: Annotated[str, Form(max_length=MAX_COLUMN)] = "",
    rejected: Annotated[str, Form(max_length=MAX_COLUMN)] = "",
) -> dict[str, str]:
    columns = [prompt, completion, messages, text, chosen, rejected]
    return {field: column for field, column in zip(MENU_FIELDS, columns, strict=True) if column}


MappedColumns = Annotated[dict[str, str], Depends(_mapped_columns)]


@dataclass(frozen=True, slots=True)
class FileRow:
    file: FileObject
    report: FileReport | None
    tokens: int | None
    are_counted: bool  # Counted by a tokenizer; otherwise estimated from the characters.
    num_jobs: int

    @property
    def is_pending(self) -> bool:
        return self.file.status == FileStatus.UPLOADED


@router.get("")
def data_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    after: Annotated[str | None, Query(max_length=256)] = None,
    purpose: Tab = Purpose.FINE_TUNE,
    q: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    return _list_page(services, request, caller, after, purpose, q)


def _list_page(
    services: Services,
    request: Request,
    caller: Caller,
    after: str | None,
    purpose: Tab = Purpose.FINE_TUNE,
    q: str = "",
    form: TypedForm = EMPTY_FORM,
) -> Response:
    """`form`: what was typed to bring in a dataset."""
    files_page = files.list_files(
        services,
        caller,
        after=after,
        limit=PAGE_SIZE,
        purpose=None if purpose == ALL else purpose,
        search=q.strip(),
    )
    ids = [file.id for file in files_page.data]
    with services.database.read() as session:
        others = files.other_purposes(session, caller.project_id)
        num_tokens = dataset_statistics.tokens_of(session, caller.project_id, ids)
        num_jobs = jobs.num_using(session, caller.project_id, ids)
    rows = [
        _row(file, num_tokens.get(file.id), num_jobs.get(file.id, 0)) for file in files_page.data
    ]
    return page(
        request,
        "data/page.html",
        caller,
        form.status_code,
        values=form.values,
        errors=form.errors,
        rows=rows,
        tabs=[*(tab for tab in Purpose if tab in (*TABS, purpose, *others)), ALL],
        tab_labels={**TABS, ALL: "All"},
        purpose=purpose,
        q=q,
        address=partial(_address, purpose, q),
        after=after,
        more=files_page.last_id if files_page.has_more else "",
    )


@uploads.post("", dependencies=[*CHANGES, *TOUCHES_STORAGE])
def upload(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    file: Annotated[UploadFile, File()],
    back: Annotated[str, Form()] = "",
    mapping: Annotated[str, Form(max_length=MAX_MAPPING_CHARACTERS)] = "",
) -> Response:
    created = files.create_file(
        services,
        caller,
        file.file,
        file.size or 0,
        filename=parse_filename(file.filename),
        purpose=Purpose.FINE_TUNE,
        mapping=parse_mapping(mapping),
    )
    return redirect_to(_after_upload(created, back))


@router.change("/sources")
def import_file(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    source: Annotated[str, Form()],
    mapping: Annotated[str, Form()] = "",
) -> Response:
    with TypedForm(source=source, mapping=mapping) as form:
        columns = parse_mapping(mapping) or None
        body = parse_form(SourceRequest, source=source.strip(), purpose=Purpose.FINE_TUNE)
        body = body.model_copy(update={"mapping": columns})
        file = files.import_file(services, caller, body)
        return redirect_to(f"/data/{file.id}")
    return _list_page(services, request, caller, None, form=form)


@router.change("/example", *TOUCHES_STORAGE)
def add_example(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    back: Annotated[str, Form(max_length=64)] = "",
) -> RedirectResponse:
    with notify_refusals(request):
        return redirect_to(_after_upload(examples.add_example(services, caller), back))
    return redirect_to(NEW_JOB if back == NEW_JOB else "/data")


@router.get("/{file_id}", dependencies=TOUCHES_STORAGE)
def file_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    file_id: str,
    model: Annotated[str, Query(max_length=256)] = "",
    max_seq_length: Annotated[int, Query(ge=8, le=1_048_576)] = DEFAULT_MAX_SEQ_LENGTH,
    chat_template_kwargs: Annotated[str, Query(max_length=8192)] = "",
) -> Response:
    with services.database.read() as session:
        earlier = dataset_statistics.all_of(session, files.get(session, caller.project_id, file_id))
        models = catalogue.trainable(session, caller.project_id)
        using = [
            (job, state(job))
            for job in jobs.list_using(session, caller.project_id, file_id, limit=MAX_JOBS)
        ]
        num_using = jobs.num_using(session, caller.project_id, [file_id]).get(file_id, 0)
    if not model and earlier:
        model = earlier[-1].model
        max_seq_length = earlier[-1].max_seq_length
        chat_template_kwargs = write_template_kwargs(earlier[-1].chat_template_kwargs)
    if model and model not in models:  # older than those that are offered
        models.append(model)
    first_lines: list[str] = []
    missing = ""
    try:
        first_lines = files.read_first_lines(services, caller, file_id)
    except BytesMissing as error:
        missing = error.message
    context: dict[str, Any] = {
        "first_lines": first_lines,
        "missing": missing,
        "models": models,
        "model": model,
        "max_seq_length": max_seq_length,
        "chat_template_kwargs": chat_template_kwargs,
        "using": using,
        "num_using": num_using,
    }
    data = view_file(services, caller, file_id, model, max_seq_length, chat_template_kwargs)
    columns = guess_columns(data.unknown_columns)
    return page(request, "data/file.html", caller, data=data, columns=columns, **context)


@router.get("/{file_id}/content", dependencies=TOUCHES_STORAGE)
def file_content(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    file_id: str,
    skip_bad_lines: bool = False,
) -> Response:
    return send_content(services, caller, request, file_id, skip_bad_lines=skip_bad_lines)


@router.change("/{file_id}/check")
def check(
    services: ServicesDep, request: Request, caller: WritingVisitor, file_id: str
) -> RedirectResponse:
    with notify_refusals(request):
        files.check_file(services, caller, file_id)
    return redirect_to(f"/data/{file_id}")


@router.change("/{file_id}/columns")
def map_columns(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    file_id: str,
    columns: MappedColumns,
) -> RedirectResponse:
    with notify_refusals(request):
        files.map_columns(services, caller, file_id, columns)
    return redirect_to(f"/data/{file_id}")


@router.change("/{file_id}/clean", *TOUCHES_STORAGE)
def clean(
    services: ServicesDep, request: Request, caller: WritingVisitor, file_id: str
) -> RedirectResponse:
    with notify_refusals(request):
        copy = cleaning.copy_good_lines(services, caller, file_id)
        return redirect_to(f"/data/{copy.id}")
    return redirect_to(f"/data/{file_id}")


@router.change("/{file_id}/delete")
def delete(
    services: ServicesDep, request: Request, caller: WritingVisitor, file_id: str
) -> RedirectResponse:
    with notify_refusals(request):
        files.delete_file(services, caller, file_id)
        notify(request, f"{file_id} is deleted.")
        return redirect_to("/data")
    return redirect_to(f"/data/{file_id}")


def _after_upload(file: FileObject, back: str) -> str:
    return f"{NEW_JOB}?training_file={file.id}" if back == NEW_JOB else f"/data/{file.id}"


def _address(purpose: Tab, q: str, after: str = "") -> str:
    pairs = {
        "purpose": purpose if purpose is not Purpose.FINE_TUNE else "",
        "q": q,
        "after": after,
    }
    query = urlencode({name: value for name, value in pairs.items() if value})
    return f"/data?{query}" if query else "/data"


def _row(file: FileObject, num_tokens: int | None, num_jobs: int) -> FileRow:
    report = file.report
    are_counted = num_tokens is not None
    if num_tokens is None and report and report.num_records:
        num_tokens = tokens_from_characters(report.num_characters, report.num_sequences)
    return FileRow(file, report, num_tokens, are_counted, num_jobs)
