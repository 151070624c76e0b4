"""What administrators of the installation do to add base models."""

from app.auth import audit
from app.auth.caller import Caller
from app.http.pagination import Page
from app.model_imports import service
from app.model_imports.schemas import ModelImportObject, ModelImportRequest
from app.models import ModelImport
from app.services import Services


def create_import(
    services: Services, caller: Caller, request: ModelImportRequest
) -> ModelImportObject:
    """Have a worker add a base model to the catalogue."""
    service.check_source(request.source, services.settings.webhook_networks)
    with services.database.transaction() as session:
        imported = service.add(session, caller.project_id, request.id, request.source)
        answer = ModelImportObject.of(imported)
        audit.record(session, caller, "model.created", request.id)
    services.notifier.notify(ModelImport, answer.id)
    return answer


def retrieve_import(services: Services, import_id: str) -> ModelImportObject:
    with services.database.read() as session:
        return ModelImportObject.of(service.get(session, import_id))


def list_imports(services: Services) -> Page[ModelImportObject]:
    """Return the newest."""
    with services.database.read() as session:
        imports = [ModelImportObject.of(imported) for imported in service.newest(session)]
    return Page[ModelImportObject].of(imports)
