from fastapi import APIRouter

from app.exports import service
from app.exports.schemas import ExportObject, ExportRequest
from app.http.dependencies import ApiRoute, App, Reader, Writer
from app.http.pagination import Page

router = APIRouter(prefix="/v1/models/{model:path}/exports", tags=["models"], route_class=ApiRoute)


@router.post("")
def create_export(app: App, caller: Writer, model: str, body: ExportRequest) -> ExportObject:
    """Have a fine-tuned model, or a checkpoint `<model>:ckpt-step-<n>`, made in another format. A worker does it; asking again shows how
    far it is. What comes of it is a model of its own, whose files are listed and downloaded as those of any other."""
    with app.database.transaction() as session:
        export = ExportObject.of(service.ask(session, caller.project_id, model, body.format))
    if export.status == "in_progress":
        app.notifier.notify_export(export.id)
    return export


@router.get("")
def list_exports(app: App, caller: Reader, model: str) -> Page[ExportObject]:
    with app.database.read() as session:
        return Page[ExportObject].of([ExportObject.of(export) for export in service.all_of(session, caller.project_id, model)])


@router.get("/{format}")
def retrieve_export(app: App, caller: Reader, model: str, format: str) -> ExportObject:
    with app.database.read() as session:
        return ExportObject.of(service.get(session, caller.project_id, model, format))
