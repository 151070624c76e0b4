from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Form, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from app.auth.caller import Caller
from app.base.errors import ApiError, NotFound
from app.catalogue import service as catalogue
from app.estimates import service as estimates
from app.files import service as files
from app.files.schemas import FileObject
from app.http.dependencies import ServicesDep
from app.jobs import service
from app.jobs.budget_warnings import warn_of_budget
from app.jobs.estimate_schemas import EstimateObject
from app.jobs.schemas import JobObject
from app.models import FileStatus, Model, Purpose
from app.services import Services
from app.studies import service as studies
from app.studies.requests import THREE_RATES, study_like
from app.web import job_form, job_settings, live, tracker_fields
from app.web.file_view import FileView, view_file
from app.web.job_form import Errors, Values
from app.web.model_chooser import SUGGESTIONS, default_model, is_real, read_facts, shown_imports
from app.web.rendering import fragment, page, shared
from app.web.text import age, counted_as, model_label
from app.web.visitor import PageRouter, Visitor, WritingVisitor
from app.workers import service as workers
from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.contract.template_kwargs import write_template_kwargs
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.estimate import Estimate
from falqon_core.records.file_check import FileReport
from falqon_core.records.shapes import Shape

MAX_FILES = 200  # Files to choose from; older ones are among the data.
MAX_JOB_FORM_BYTES = 2**18  # The longest metadata alone is 110 KiB when percent-encoded.
DEFAULT_MAX_SEQ_LENGTH: int = Recipe.model_fields["max_seq_length"].default

router = PageRouter("/jobs/new")


@dataclass(frozen=True, slots=True)
class FormPlan:
    """The meaning of the filled-in form. `job`: as it would be, when nothing is wrong."""

    body: dict[str, Any]
    data: FileView | None
    job: JobObject | None
    estimate: EstimateObject | None  # The estimate, with those for other devices.
    range_test: Estimate | None  # The estimate of a range test in the place of the training.
    errors: Errors
    warnings: Errors  # at fields, too
    applicable: list[str]  # Names of the settings that not every job has.
    presets: list[job_settings.Preset]


async def _values(request: Request) -> Values:
    """Read what is filled in."""
    form = await request.form()
    return {name: text for name in job_form.NAMES if isinstance(text := form.get(name, ""), str)}


FormValues = Annotated[Values, Depends(_values)]


@router.get("")
def new_job_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    training_file: str = "",
    model: str = "",
    like: str = "",
    learning_rate: str = "",
) -> Response:
    """`like`: a job whose form is filled in again."""
    values: dict[str, str] = {}
    if like:
        with services.database.read() as session:
            job = service.get(session, caller.project_id, like)
            base = session.get_one(Model, job.base_model_id)
            values = job_form.values_of(job, estimates.width_of(base))
    values |= {
        name: value
        for name, value in (
            ("training_file", training_file),
            ("model", model),
            ("learning_rate", learning_rate),
        )
        if value
    }
    return _page(services, request, caller, values)


@router.change("/estimate", max_body_size=MAX_JOB_FORM_BYTES)
def estimate(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    values: FormValues,
    is_typing: Annotated[bool, Form()] = False,
    preset: Annotated[str, Form()] = "",
) -> Response:
    """Show the page as it is filled in; for the script that asks on every change, the parts that
    say what follows. `is_typing`: what the file is inspected with is not whole yet. `preset`: the
    name of one that was pressed.
    """
    if preset:
        plan = _plan(services, caller, {**values, **job_settings.WITHOUT_PRESET})
        for pressed in (each for each in plan.presets if each.name == preset):
            values = {**values, **pressed.values()}
    if "hx-request" not in request.headers:
        return _page(services, request, caller, values)
    plan = _plan(services, caller, values, inspects=not is_typing)
    context = shared(request, caller) | _plan_context(plan, request) | {"values": values}
    context["facts"] = read_facts(services, caller, values.get("model", ""))
    names = ["plan", "code", "applicable", "facts"]
    if not is_typing:
        names.insert(0, "report")
    if context["may_write"]:
        names.append("range_test")
    if plan.job:
        names.append("presets")
    parts = {name: fragment(f"new_job/{name}.html", **context) for name in names}
    parts |= {
        f"error-{name}": fragment(
            "new_job/error.html", field=name, errors=plan.errors, warnings=plan.warnings
        )
        for name in ("", *job_form.NAMES)
    }
    return HTMLResponse(
        "".join(live.partial(f"#{id_}", "outerMorph", html) for id_, html in parts.items())
    )


@router.change("", max_body_size=MAX_JOB_FORM_BYTES)
def submit(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    values: FormValues,
    find_rate: Annotated[bool, Form()] = False,
) -> Response:
    """`find_rate`: a range test, in the place of the training."""
    shape = _shape(services, caller, values)
    body = job_form.body_of(job_settings.without_foreign(values, shape), shape)
    if find_rate:
        body = _as_range_test(body)
    job_request = job_form.request_of(values, body)
    if isinstance(job_request, dict):
        return _page(services, request, caller, values, refused=job_request)
    try:
        job = service.create_job(services, caller, job_request)
    except ApiError as error:
        return _page(services, request, caller, values, refused=dict([job_form.at_field(error)]))
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.change("/study", max_body_size=MAX_JOB_FORM_BYTES)
def start_study(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    values: FormValues,
    methods: Annotated[list[str] | None, Form(max_length=len(METHOD_SPECS))] = None,
    three_rates: Annotated[bool, Form()] = False,
) -> Response:
    """Train as the form says, once with each method and rate. Without a method, with its own."""
    compared = [*(methods or []), *(["true"] if three_rates else [])]
    shape = _shape(services, caller, values)
    body = job_form.body_of(job_settings.without_foreign(values, shape), shape)
    job_request = job_form.request_of(values, body)
    if not compared:
        job_request = {"methods": "Choose methods, or three learning rates."}
    if isinstance(job_request, dict):
        return _page(services, request, caller, values, refused=job_request, compared=compared)
    try:
        factors = THREE_RATES if three_rates else (1.0,)
        study_request = study_like(
            job_request, job_request.suffix, methods=methods or (), rate_factors=factors
        )
        study = studies.create_study(services, caller, study_request)
    except ApiError as error:
        refused = dict([_at_field_of_study(error)])
        return _page(services, request, caller, values, refused=refused, compared=compared)
    return RedirectResponse(f"/studies/{study.id}", 303)


def _at_field_of_study(error: ApiError) -> tuple[str, str]:
    if (error.param or "").startswith("methods"):
        return "methods", error.message.partition(": ")[2] or error.message
    return job_form.at_field(error)


def _page(
    services: Services,
    request: Request,
    caller: Caller,
    values: Values,
    *,
    refused: Errors | None = None,
    compared: Sequence[str] = (),
) -> Response:
    """`compared`: what is ticked for a study."""
    with services.database.read() as session:
        models = catalogue.trainable(session, caller.project_id)
        most_gpus = max(workers.most_gpus(session, services.settings).values(), default=None)
    file_list = files.list_files(services, caller, limit=MAX_FILES, purpose=Purpose.FINE_TUNE).data
    values = {"model": default_model(models)} | {
        name: value for name, value in values.items() if value
    }
    plan = _plan(services, caller, values)
    options = [(file.id, _named(file)) for file in file_list if file.status == FileStatus.PROCESSED]
    if plan.data and plan.data.file.id not in dict(options):
        options.append((plan.data.file.id, _named(plan.data.file)))
    context = _plan_context(plan, request) | {"values": values, "form": job_form}
    context["most_gpus"] = most_gpus
    context["compared"] = compared
    context["models"] = _with(values["model"], [(id_, model_label(id_)) for id_ in models])
    context["has_real_model"] = any(map(is_real, models))
    context["facts"] = read_facts(services, caller, values["model"])
    context["suggestions"] = [each for each in SUGGESTIONS if each.id not in models]
    context["imports"] = shown_imports(services, caller)
    context["files"] = {
        name: _with(values.get(name, ""), options) for name in ("training_file", "validation_file")
    }
    if refused is not None:
        context["errors"] = refused
    context["settings"] = job_settings
    context["opened"] = [
        group.title
        for group in job_settings.GROUPS
        if any(name in values or name in context["errors"] for name in group.names)
    ]
    context["reports"] = any(
        name in values or name in context["errors"]
        for name in (tracker_fields.AS_JSON, *tracker_fields.NAMES)
    )
    return page(
        request, "new_job/page.html", caller, status_code=400 if refused else 200, **context
    )


def _named(file: FileObject) -> str:
    """Return a label that tells a file from others of its name."""
    report = file.report or FileReport()
    parts = [file.filename]
    if report.num_records:
        parts.append(counted_as(report.num_records, "record"))
    if report.num_errors:
        parts.append(counted_as(report.num_errors, "bad line"))
    return ", ".join([*parts, age(file.created_at)])


def _with(chosen: str, options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Add what is chosen, so that it stays so, be it among the newest or not."""
    if chosen and chosen not in dict(options):
        return [*options, (chosen, chosen)]
    return options


def _plan_context(plan: FormPlan, request: Request) -> dict[str, Any]:
    origin = str(request.base_url).rstrip("/")
    code = (
        {
            "curl": job_form.as_curl(plan.body, origin),
            "Python": job_form.as_python(plan.body, origin),
        }
        if plan.job
        else {}
    )
    estimate = plan.job.estimate if plan.job else None
    device = find_device(estimate.device) if estimate else None
    memory_gib = device.memory_gib if device else None
    return {
        "plan": plan,
        "data": plan.data,
        "errors": plan.errors,
        "warnings": plan.warnings,
        "code": code,
        "applicable": plan.applicable,
        "learned": job_settings.LEARNED_BY_SHAPE,
        "device_memory": memory_gib and memory_gib * 2**30,
    }


def _plan(services: Services, caller: Caller, values: Values, *, inspects: bool = True) -> FormPlan:
    """`inspects`: the training file, where it has not been for this model and length."""
    shape = _shape(services, caller, values)
    body = job_form.body_of(job_settings.without_foreign(values, shape), shape)
    job_request = job_form.request_of(values, body)
    errors = job_request if isinstance(job_request, dict) else {}
    length, kwargs = DEFAULT_MAX_SEQ_LENGTH, ""
    if not isinstance(job_request, dict):
        length = job_request.falqon.max_seq_length
        kwargs = write_template_kwargs(job_request.falqon.chat_template_kwargs)
    data, job = None, None
    estimate: EstimateObject | None = None
    range_test: Estimate | None = None
    if training_file := values.get("training_file", ""):
        try:
            model = values.get("model", "") if inspects else ""
            data = view_file(services, caller, training_file, model, length, kwargs)
        except NotFound as error:
            errors["training_file"] = error.message
    else:
        # A form without a file is no error before it is sent.
        errors.pop("training_file", None)
    if data and data.file.status == FileStatus.PROCESSED and not isinstance(job_request, dict):
        try:
            job = service.preview_job(services, caller, job_request)
            estimate = service.estimate_job(services, caller, job_request)
            test_request = job_form.request_of(values, _as_range_test(body))
            if not isinstance(test_request, dict):
                range_test = service.preview_job(services, caller, test_request).estimate
        except ApiError as error:
            errors = dict([job_form.at_field(error)])
    warnings: Errors = {}
    if job is not None and job.estimate is not None and not isinstance(job_request, dict):
        budget = job_request.falqon.budget
        warnings = {each.field: each.text for each in warn_of_budget(budget, job.estimate)}
    applicable = job_settings.applicable(values, shape)
    presets = job_settings.presets_for(job, data.report if data else None)
    return FormPlan(body, data, job, estimate, range_test, errors, warnings, applicable, presets)


def _as_range_test(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"falqon": body.get("falqon", {}) | {"find_rate": True}}


def _shape(services: Services, caller: Caller, values: Values) -> Shape | None:
    """Return the shape of the training file's records, which decides the way they are trained
    on.
    """
    with services.database.read() as session:
        file = files.find(session, caller.project_id, values.get("training_file", ""))
    return file.report.shape if file and file.report else None
