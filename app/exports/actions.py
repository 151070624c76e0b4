"""What callers do with exports of a model."""

from app.auth.caller import Caller
from app.exports import service
from app.exports.schemas import ExportObject
from app.http.pagination import Page
from app.models import Export
from app.services import Services
from falqon_core.contract.formats import FormatName


def create_export(
    services: Services, caller: Caller, model_id: str, format: FormatName
) -> ExportObject:
    """Have a worker make a model in another format, unless that is done or under way."""
    with services.database.transaction() as session:
        export = ExportObject.of(service.ask(session, caller, model_id, format))
    if export.status == "in_progress":
        services.notifier.notify(Export, export.id)
    return export


def list_exports(services: Services, caller: Caller, model_id: str) -> Page[ExportObject]:
    with services.database.read() as session:
        exports = service.all_of(session, caller.project_id, model_id)
        return Page[ExportObject].of([ExportObject.of(export) for export in exports])


def retrieve_export(services: Services, caller: Caller, model_id: str, format: str) -> ExportObject:
    with services.database.read() as session:
        return ExportObject.of(service.get(session, caller.project_id, model_id, format))
