from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from sse_starlette import EventSourceResponse

from app.artifacts import endpoints as artifacts
from app.artifacts.schemas import LinkRequest
from app.auth.caller import Caller
from app.catalogue import endpoints as catalogue
from app.catalogue import service as models
from app.catalogue.schemas import ModelObject
from app.exports import endpoints as exports
from app.exports import service as export_service
from app.exports.schemas import ExportRequest
from app.http.dependencies import TOUCHES_STORAGE, App, Services
from app.stream.endpoints import event_stream
from app.web import live, model_view
from app.web.forms import asked, to, told
from app.web.rendering import fragment, page, shared
from app.web.session import notify
from app.web.text import model_page
from app.web.visitor import CHANGES, MAX_FORM_BYTES, PageRoute, Visitor, WritingVisitor
from falqon_core.contract.formats import FORMATS

MAX_ROWS = 200
LOOK_SECONDS = 2.0
LINK_SECONDS = {3600: "an hour", 24 * 3600: "a day", 7 * 24 * 3600: "seven days"}
HERE = "/models"

router = APIRouter(prefix=HERE, route_class=PageRoute)
streams = APIRouter(prefix=HERE)


@router.get("")
def models_page(app: App, request: Request, caller: Visitor, q: Annotated[str, Query(max_length=256)] = "") -> Response:
    search = q.strip()
    with app.database.read() as session:
        own, bases = (models.newest(session, owner, limit=MAX_ROWS, search=search) for owner in (caller.project_id, None))
        is_new = not own.models and not (search and models.newest(session, caller.project_id, limit=1).models)
    counts = {"num_own": own.num_models, "num_bases": bases.num_models}
    shown = [(model, kind(model)) for model in own.models]
    return page(request, "models/list.html", caller, own=shown, bases=bases.models, q=q, is_new=is_new, **counts)


@streams.get("/{model:path}/live")
def model_stream(app: App, request: Request, caller: Visitor, model: str) -> EventSourceResponse:
    """The formats that are being made."""
    context = shared(request, caller)
    shown = catalogue.retrieve_model(app, caller, model)

    def render() -> live.Parts:
        return {"exports": fragment("models/exports.html", **context, model=shown, **_exports(app, caller, shown))}

    return event_stream(live.parts(app, caller.key_id, caller.project_id, render, LOOK_SECONDS))


@streams.get("/{model:path}/artifacts/{name:path}", dependencies=TOUCHES_STORAGE)
def model_artifact(app: App, request: Request, caller: Visitor, model: str, name: str) -> Response:
    return artifacts.download_artifact(app, caller, request, model, name)


@streams.get("/{model:path}/archive", dependencies=TOUCHES_STORAGE)
def model_archive(app: App, request: Request, caller: Visitor, model: str) -> Response:
    return artifacts.download_archive(app, caller, request, model)


@router.post("/{model:path}/exports", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def ask_for_export(app: App, request: Request, caller: WritingVisitor, model: str, format: Annotated[str, Form()]) -> Response:
    with told(request):
        export = exports.create_export(app, caller, model, asked(ExportRequest, format=format))
        notify(request, f"The {export.format} form is there." if export.exported_model else f"A worker makes the {export.format} form.")
    return to(model_page(model))


@router.post("/{model:path}/links", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def make_link(
    app: App,
    request: Request,
    caller: Visitor,
    model: str,
    name: Annotated[str, Form()],
    expires_in_seconds: Annotated[str, Form()],
) -> Response:
    with told(request):
        wanted = asked(LinkRequest, name=name, expires_in_seconds=expires_in_seconds)
        link = artifacts.create_link(app, caller, request, model, wanted)
        return page(request, "models/link.html", caller, here=HERE, model_id=model, file=name, link=link)
    return to(model_page(model))


@router.post("/{model:path}/delete", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def delete_model(app: App, request: Request, caller: WritingVisitor, model: str) -> Response:
    with told(request):
        catalogue.delete_model(app, caller, model)
        notify(request, f"{model} is deleted.")
        return to(HERE)
    return to(model_page(model))


@router.get("/{model:path}", dependencies=TOUCHES_STORAGE)
def show_model(app: App, request: Request, caller: Visitor, model: str) -> Response:
    shown = catalogue.retrieve_model(app, caller, model)
    files = artifacts.list_artifacts(app, caller, model).data
    with app.database.read() as session:
        line = model_view.lineage(session, caller.project_id, model)
    context = shared(request, caller)
    return page(
        request,
        "models/page.html",
        caller,
        here=HERE,
        model=shown,
        kind=kind(shown),
        artifacts=files,
        line=line,
        commands=model_view.commands(shown, [one.name for one in files], context["origin"]),
        certificate=model_view.certificate(app, caller, files),
        link_seconds=LINK_SECONDS,
        **_exports(app, caller, shown),
    )


def kind(model: ModelObject) -> str:
    return model.format or ("fine-tuned" if model.fine_tuning_job else "base")


def _exports(app: Services, caller: Caller, model: ModelObject) -> dict[str, Any]:
    """Nothing for a model that is no result of a job."""
    if kind(model) != "fine-tuned":
        return {"forms": [], "in_progress": False}
    found = {export.format: export for export in exports.list_exports(app, caller, model.id).data}
    with app.database.read() as session:
        refused = export_service.refusals(session, caller.project_id, model.id)
        made = [export.exported_model for export in found.values() if export.exported_model]
        present = models.present(session, caller.project_id, made)
    forms = [(name, says, found.get(name), refused.get(name)) for name, says in FORMATS.items() if name != "fp8"]
    in_progress = any(export.status == "in_progress" for export in found.values())
    return {"forms": forms, "present": present, "in_progress": in_progress}
