from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from sse_starlette import EventSourceResponse

from app.aliases import service as aliases
from app.artifacts import service as artifacts
from app.artifacts.schemas import LinkRequest
from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.catalogue import service as models
from app.catalogue.schemas import MAX_REPLICAS, ModelChange, ModelObject
from app.exports import service as exports
from app.exports.schemas import ExportRequest
from app.http import downloads
from app.http.dependencies import ServicesDep
from app.inference import replicas as replica_service
from app.jobs import service as jobs
from app.model_imports import service as model_imports
from app.model_imports.schemas import ModelImportRequest
from app.models.switch_options import MAX_CANARY_PERCENT, SwitchOptions
from app.retention import service as retention
from app.services import Services
from app.switches import service as switches
from app.switches.schemas import SwitchRequest
from app.web import live, model_view
from app.web.forms import (
    EMPTY_FORM,
    InvalidForm,
    TypedForm,
    notify_refusals,
    parse_form,
    redirect_to,
)
from app.web.model_card import read_card
from app.web.pages.settings.aliases import ALIASES_PATH
from app.web.readme import read_readme
from app.web.rendering import fragment, page, shared
from app.web.session import notify
from app.web.text import model_page
from app.web.visitor import (
    TOUCHES_STORAGE,
    InstallationVisitor,
    PageRouter,
    Visitor,
    WritingVisitor,
)
from falqon_core.contract.formats import FORMAT_DESCRIPTIONS, TRAINED_FORMATS

MAX_ROWS = 200
MAX_IMPORTS = 10  # Imports without a model, or with one that differs.
EXPORT_POLL_SECONDS = 2.0
LINK_SECONDS = {3600: "an hour", 24 * 3600: "a day", 7 * 24 * 3600: "seven days"}
MODELS_PATH = "/models"

router = PageRouter(MODELS_PATH)
streams = APIRouter(prefix=MODELS_PATH)


@router.get("")
def models_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    q: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    return _list_page(services, request, caller, q)


def _list_page(
    services: Services,
    request: Request,
    caller: Caller,
    q: str,
    form: TypedForm = EMPTY_FORM,
) -> Response:
    """`form`: what was typed to add a model."""
    search = q.strip()
    with services.database.read() as session:
        own, bases = (
            models.newest(session, owner, limit=MAX_ROWS, search=search)
            for owner in (caller.project_id, None)
        )
        job_ids = [model.fine_tuning_job for model in own.models if model.fine_tuning_job]
        base_ids = [model.base_model for model in own.models if model.base_model]
        present = jobs.present(session, caller.project_id, job_ids) | models.present(
            session, caller.project_id, base_ids
        )
        verdicts = jobs.verdicts(session, caller.project_id, job_ids)
        is_new = not own.models and not (
            search and models.newest(session, caller.project_id, limit=1).models
        )
    counts = {"num_own": own.num_models, "num_bases": bases.num_models}
    own_models = [(model, kind(model)) for model in own.models]
    imports = []
    if caller.administers_installation:
        newest = model_imports.list_imports(services).data
        visible = [item for item in newest if item.status != "completed" or item.conversions]
        imports = visible[:MAX_IMPORTS]
    return page(
        request,
        "models/list.html",
        caller,
        form.status_code,
        values=form.values,
        errors=form.errors,
        own=own_models,
        bases=bases.models,
        q=q,
        present=present,
        verdicts=verdicts,
        is_new=is_new,
        imports=imports,
        are_pending=any(item.status == "in_progress" for item in imports),
        **counts,
    )


@router.change("")
def add_model(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    id: Annotated[str, Form()],
    source: Annotated[str, Form()],
    back: Annotated[str, Form()] = "",
) -> Response:
    with TypedForm(id=id, source=source) as form:
        body = parse_form(ModelImportRequest, id=id.strip(), source=source.strip())
        model_imports.create_import(services, caller, body)
        notify(request, f"A worker imports {body.id}.")
        return redirect_to("/jobs/new" if back == "/jobs/new" else MODELS_PATH)
    return _list_page(services, request, caller, "", form)


@streams.get("/{model:path}/live")
def model_stream(
    services: ServicesDep, request: Request, caller: Visitor, model: str
) -> EventSourceResponse:
    """Send the formats that are being made."""
    context = shared(request, caller)
    model_object = models.retrieve_model(services, caller, model)

    def render() -> live.Parts:
        forms = _exports(services, caller, model_object)
        current = models.retrieve_model(services, caller, model)
        return {
            name: fragment(f"models/{name}.html", **context, model=current, **forms)
            for name in ("exports", "serving")
        }

    return live.stream(services, caller, render, EXPORT_POLL_SECONDS)


@router.get("/{model:path}/artifacts/{name:path}", dependencies=TOUCHES_STORAGE)
def model_artifact(
    services: ServicesDep, request: Request, caller: Visitor, model: str, name: str
) -> Response:
    content = artifacts.retrieve_artifact(services, caller, model, name)
    return downloads.send(
        request, services.storage, content, redirects=services.settings.download_redirects
    )


@router.get("/{model:path}/archive", dependencies=TOUCHES_STORAGE)
def model_archive(services: ServicesDep, request: Request, caller: Visitor, model: str) -> Response:
    return downloads.send_stream(request, artifacts.retrieve_archive(services, caller, model))


@router.change("/{model:path}/exports")
def ask_for_export(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    model: str,
    format: Annotated[str, Form()],
) -> Response:
    with notify_refusals(request):
        choice = parse_form(ExportRequest, format=format)
        export = exports.create_export(services, caller, model, choice.format)
        if export.exported_model:
            notify(request, f"The {export.format} format is ready.")
        else:
            notify(request, f"A worker creates the {export.format} format.")
    return redirect_to(model_page(model))


@router.change("/{model:path}/serving")
def choose_serving(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    model: str,
    serve_as: Annotated[str, Form()],
) -> Response:
    with notify_refusals(request):
        choice = parse_form(ModelChange, serve_as=serve_as).serve_as or "merged"
        changed = exports.set_serving(services, caller, model, choice)
        if changed.serve_as == "shared" and changed.shared_form is None:
            notify(request, "A worker makes the adapter and measures it; then it answers.")
        else:
            notify(request, f"The model answers {changed.serve_as}.")
    return redirect_to(model_page(model))


@router.change("/{model:path}/switch")
def switch_name(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    model: str,
    alias: Annotated[str, Form()],
    canary: Annotated[str, Form()] = "",
) -> Response:
    """Let a name stand for the model, if it is not worse than what the name stands for."""
    with notify_refusals(request):
        try:
            options = parse_form(SwitchOptions, alias=alias, canary=canary)
        except InvalidForm:
            raise InvalidRequest(
                f"Enter a whole percentage from 1 to {MAX_CANARY_PERCENT}, or nothing."
            ) from None
        switch_request = SwitchRequest(model=model, canary=options.canary)
        switches.create_switch(services, caller, alias, switch_request)
        notify(request, f"A worker compares the models; then {alias} moves, or stays.")
        return redirect_to(ALIASES_PATH)
    return redirect_to(model_page(model))


@router.change("/{model:path}/replicas")
def set_replicas(
    services: ServicesDep,
    request: Request,
    caller: WritingVisitor,
    model: str,
    replicas: Annotated[str, Form()] = "",
) -> Response:
    with notify_refusals(request):
        try:
            change = parse_form(ModelChange, replicas=replicas)
        except InvalidForm:
            raise InvalidRequest(f"Enter a whole number from 1 to {MAX_REPLICAS}.") from None
        replica_service.set_replicas(services, caller, model, change.replicas or 1)
        notify(request, "The number of replicas is set; workers load them while the model is used.")
    return redirect_to(model_page(model))


@router.change("/{model:path}/links")
def make_link(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    model: str,
    name: Annotated[str, Form()],
    expires_in_seconds: Annotated[str, Form()],
) -> Response:
    with notify_refusals(request):
        link_request = parse_form(LinkRequest, name=name, expires_in_seconds=expires_in_seconds)
        link = artifacts.create_link(services, caller, model, link_request, str(request.base_url))
        return page(
            request,
            "models/link.html",
            caller,
            here=MODELS_PATH,
            model_id=model,
            file=name,
            link=link,
        )
    return redirect_to(model_page(model))


@router.change("/{model:path}/delete")
def delete_model(
    services: ServicesDep, request: Request, caller: WritingVisitor, model: str
) -> Response:
    with notify_refusals(request):
        models.delete_model(services, caller, model)
        notify(request, f"{model} is deleted.")
        return redirect_to(MODELS_PATH)
    return redirect_to(model_page(model))


@router.get("/{model:path}", dependencies=TOUCHES_STORAGE)
def show_model(services: ServicesDep, request: Request, caller: Visitor, model: str) -> Response:
    model_object = models.retrieve_model(services, caller, model)
    files = artifacts.list_artifacts(services, caller, model).data
    with services.database.read() as session:
        lineage = model_view.lineage(session, caller.project_id, model_object.id)
        card = read_card(session, caller.project_id, model_object, lineage)
    context = shared(request, caller)
    is_served_elsewhere = bool(services.settings.engine_url_of(model_object.id))
    return page(
        request,
        "models/page.html",
        caller,
        here=MODELS_PATH,
        model=model_object,
        kind=kind(model_object),
        engine_note=None if is_served_elsewhere else model_object.engine_note,
        artifacts=files,
        line=lineage,
        card=card,
        readme=read_readme(services, caller, files),
        commands=model_view.commands(
            model_object, [file.name for file in files], context["origin"]
        ),
        certificate=model_view.certificate(services, caller, files),
        link_seconds=LINK_SECONDS,
        retention=None
        if kind(model_object) == "base"
        else retention.retrieve_retention(services, caller, model_object.id),
        names=_names_to_switch(services, caller, model_object),
        most_percent=MAX_CANARY_PERCENT,
        most_replicas=MAX_REPLICAS,
        **_exports(services, caller, model_object),
    )


def kind(model: ModelObject) -> str:
    return model.format or ("fine-tuned" if model.fine_tuning_job else "base")


def _names_to_switch(services: Services, caller: Caller, model: ModelObject) -> list[str]:
    """Return the names of the project that stand for other models than this result of a job."""
    if kind(model) != "fine-tuned":
        return []
    return [
        alias.id
        for alias in aliases.list_aliases(services, caller).data
        if alias.project_id and [target.model for target in alias.models] != [model.id]
    ]


def _exports(services: Services, caller: Caller, model: ModelObject) -> dict[str, Any]:
    """List the exports; none for a model that is no result of a job."""
    if kind(model) != "fine-tuned":
        return {"forms": [], "in_progress": False}
    by_format = {
        export.format: export for export in exports.list_exports(services, caller, model.id).data
    }
    exported = [export.exported_model for export in by_format.values() if export.exported_model]
    with services.database.read() as session:
        refusals = exports.refusals(session, caller.project_id, model.id)
        sizes = models.sizes(session, caller.project_id, exported)
    forms = [
        (name, description, by_format.get(name), refusals.get(name))
        for name, description in FORMAT_DESCRIPTIONS.items()
        if name not in TRAINED_FORMATS
    ]
    in_progress = any(export.status == "in_progress" for export in by_format.values())
    return {"forms": forms, "sizes": sizes, "in_progress": in_progress}
