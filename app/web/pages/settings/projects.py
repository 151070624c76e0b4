from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Form, Request, Response

from app.auth.caller import Caller
from app.http.dependencies import After, ServicesDep
from app.models import Scope
from app.models.answer_storage import AnswerStorage
from app.projects import service
from app.projects.schemas import ProjectChange, ProjectRequest
from app.services import Services
from app.web.forms import (
    EMPTY_FORM,
    Errors,
    InvalidForm,
    TypedForm,
    notify_refusals,
    parse_form,
    redirect_to,
)
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.sizes import read_size
from app.web.visitor import AdminVisitor, InstallationVisitor, PageRouter, Visitor

PAGE_SIZE = 20
Field = Annotated[str | None, Form()]

router = PageRouter(SETTINGS_PATH)


@router.get("")
def projects_page(
    services: ServicesDep, request: Request, caller: Visitor, after: After = None
) -> Response:
    """Show everybody what their key may do, an admin also the projects that it administers."""
    return _list_page(services, request, caller, after)


@router.change("/projects")
def create_project(
    services: ServicesDep, request: Request, caller: InstallationVisitor, name: Field = None
) -> Response:
    with TypedForm(name=name) as form:
        project = service.create_project(services, caller, parse_form(ProjectRequest, name=name))
        notify(request, "Project created. Set its limits and create a key for it.")
        return redirect_to(f"{SETTINGS_PATH}/projects/{project.id}")
    return _list_page(services, request, caller, None, form)


@router.get("/projects/{project_id}")
def project_page(
    services: ServicesDep, request: Request, caller: AdminVisitor, project_id: str
) -> Response:
    return _project_page(services, request, caller, project_id)


@router.change("/projects/{project_id}")
def change_project(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    project_id: str,
    name: Field = None,
) -> Response:
    with TypedForm(name=name) as form:
        change = ProjectChange(name=parse_form(ProjectRequest, name=name).name)
        service.change_project(services, caller, project_id, change)
        notify(request, "Project renamed.")
        return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")
    return _project_page(services, request, caller, project_id, form)


@router.change("/projects/{project_id}/evaluation")
def choose_evaluation(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    project_id: str,
    evaluate: Annotated[bool, Form()] = False,
) -> Response:
    with notify_refusals(request):
        service.change_project(services, caller, project_id, ProjectChange(evaluate=evaluate))
        outcome = "are evaluated" if evaluate else "are not evaluated by themselves"
        notify(request, f"Jobs that begin from now on {outcome}.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")


@router.change("/projects/{project_id}/limits")
def limit_project(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    project_id: str,
    weight: Field = None,
    requests_per_minute: Field = None,
    max_live_jobs: Field = None,
    max_storage_bytes: Field = None,
    max_device_hours: Field = None,
    max_running_gpus: Field = None,
    guaranteed_gpus: Field = None,
) -> Response:
    """Set the limits; an empty field removes one."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "max_live_jobs": max_live_jobs,
        "max_storage_bytes": max_storage_bytes,
        "max_device_hours": max_device_hours,
        "max_running_gpus": max_running_gpus,
        "guaranteed_gpus": guaranteed_gpus,
    }
    with TypedForm(weight=weight, **limits) as form:
        changes = dict.fromkeys(limits) | _read_limits(form.values)
        change = ProjectChange.model_validate(changes)
        service.change_project(services, caller, project_id, change)
        notify(request, "Limits set.")
        return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")
    return _project_page(services, request, caller, project_id, form)


@router.change("/projects/{project_id}/retention")
def set_retention(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    project_id: str,
    checkpoints_kept_days: Field = None,
    models_kept_days: Field = None,
) -> Response:
    days = {"checkpoints_kept_days": checkpoints_kept_days, "models_kept_days": models_kept_days}
    with TypedForm(**days) as form:
        typed = parse_form(ProjectChange, **days).model_dump(exclude_unset=True)
        change = ProjectChange.model_validate(dict.fromkeys(days) | typed)
        service.change_project(services, caller, project_id, change)
        notify(request, "Retention set.")
        return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")
    return _project_page(services, request, caller, project_id, form)


@router.change("/projects/{project_id}/answers")
def keep_answers(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    project_id: str,
    kept_days: Field = None,
    max_size: Field = None,
    redact: Field = None,
) -> Response:
    with TypedForm(kept_days=kept_days, max_size=max_size, redact=redact) as form:
        try:
            max_bytes = str(read_size(max_size or ""))
        except ValueError as error:
            raise InvalidForm({"max_size": str(error)}) from None
        rules = parse_form(AnswerStorage, kept_days=kept_days, max_bytes=max_bytes)
        patterns = [line.strip() for line in (redact or "").splitlines() if line.strip()]
        redacting = parse_form(AnswerStorage, redact=patterns).redact if patterns else []
        rules = rules.model_copy(update={"redact": redacting})
        change = ProjectChange(answer_storage=rules)
        service.change_project(services, caller, project_id, change)
        notify(request, "Answers whose requests say store are kept.")
        return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")
    return _project_page(services, request, caller, project_id, form)


@router.change("/projects/{project_id}/answers/off")
def keep_no_answers(
    services: ServicesDep, request: Request, caller: AdminVisitor, project_id: str
) -> Response:
    with notify_refusals(request):
        service.change_project(services, caller, project_id, ProjectChange(answer_storage=None))
        notify(request, "No answers are kept; those that were are deleted within minutes.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")


@router.change("/projects/{project_id}/archive")
def archive_project(
    services: ServicesDep, request: Request, caller: InstallationVisitor, project_id: str
) -> Response:
    with notify_refusals(request):
        service.archive_project(services, caller, project_id)
        notify(request, "Project archived. Its keys no longer work.")
    return redirect_to(f"{SETTINGS_PATH}/projects/{project_id}")


def _read_limits(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return the limits that are set. Raises `InvalidForm`."""
    texts = dict(typed)
    errors: Errors = {}
    if size := texts.pop("max_storage_bytes"):
        try:
            texts["max_storage_bytes"] = str(read_size(size))
        except ValueError as error:
            errors["max_storage_bytes"] = str(error)
    try:
        limits = parse_form(ProjectChange, **texts).model_dump(exclude_unset=True)
    except InvalidForm as error:
        errors |= error.errors
    if errors:
        raise InvalidForm(errors)
    return limits


def _list_page(
    services: Services,
    request: Request,
    caller: Caller,
    after: str | None,
    form: TypedForm = EMPTY_FORM,
) -> Response:
    projects = None
    if caller.scope is Scope.ADMIN:
        projects = service.list_projects(
            services, caller, after=after, limit=PAGE_SIZE, with_usage=True
        )
    context = {
        "projects": projects,
        "after": after,
        "month": service.read_month(services),
        "default_rate": services.settings.requests_per_minute,
        "tokens_per_minute": services.settings.tokens_per_minute,
    }
    return settings_page(request, "projects.html", caller, SETTINGS_PATH, form, **context)


def _project_page(
    services: Services,
    request: Request,
    caller: Caller,
    project_id: str,
    form: TypedForm = EMPTY_FORM,
) -> Response:
    return settings_page(
        request,
        "project.html",
        caller,
        SETTINGS_PATH,
        form,
        project=service.retrieve_project(services, caller, project_id),
        month=service.read_month(services),
    )
