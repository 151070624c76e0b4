"""Use cases for administrators of the installation that add base models."""

import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.base.outbound.addresses import Networks
from app.catalogue import service as catalogue
from app.catalogue.importer import ID_RULE, MODEL_ID, TINY_SOURCE
from app.files.addresses import WebAddress, parse_address
from app.http.pagination import Page
from app.model_imports.schemas import ModelImportObject, ModelImportRequest
from app.models import ModelImport, OperationStatus
from app.operations import service as operations
from app.services import Services

MAX_IN_PROGRESS = 10
MAX_LISTED = 50
FORMS = f"hf://owner/name@revision, https://host/model.gguf or {TINY_SOURCE}"
HUB_MODEL = re.compile(rf"hf://({MODEL_ID.pattern})(@[^\s@]{{1,255}})?")


def create_import(
    services: Services, caller: Caller, request: ModelImportRequest
) -> ModelImportObject:
    """Have a worker add a base model to the catalogue."""
    check_source(request.source, services.settings.webhook_networks)
    with services.database.transaction() as session:
        imported = add(session, caller.project_id, request.id, request.source)
        answer = ModelImportObject.of(imported)
        audit.record(session, caller, "model.created", request.id)
    services.notifier.notify(ModelImport, answer.id)
    return answer


def retrieve_import(services: Services, import_id: str) -> ModelImportObject:
    with services.database.read() as session:
        return ModelImportObject.of(get(session, import_id))


def list_imports(services: Services) -> Page[ModelImportObject]:
    """Return the newest."""
    with services.database.read() as session:
        imports = [ModelImportObject.of(imported) for imported in newest(session)]
    return Page[ModelImportObject].of(imports)


def add(session: Session, project_id: str, model_id: str, source: str) -> ModelImport:
    """Add an import. Raises if it could only fail."""
    if not MODEL_ID.fullmatch(model_id):
        raise InvalidRequest(f"id: '{model_id}' is no model id: {ID_RULE}", param="id")
    if catalogue.exists(session, model_id):
        raise IllegalState(
            f"There is a model '{model_id}' already; choose another id.",
            param="id",
            code="model_exists",
        )
    operations.admit(session, ModelImport, project_id, MAX_IN_PROGRESS)
    imported = ModelImport(
        id=new_id("mimport-"),
        project_id=project_id,
        model_id=model_id,
        source=source,
        status=OperationStatus.IN_PROGRESS,
    )
    session.add(imported)
    session.flush()
    session.refresh(imported)
    return imported


def check_source(source: str, networks: Networks) -> None:
    """Raise `InvalidRequest` for a source that no worker could read. Folders of a machine are for
    administrators with a shell there: `falqon admin models add`.
    """
    if source == TINY_SOURCE or HUB_MODEL.fullmatch(source):
        return
    is_gguf = source.partition("?")[0].lower().endswith(".gguf")
    if "://" in source and is_gguf and isinstance(parse_address(source, networks), WebAddress):
        return
    raise InvalidRequest(f"source: write {FORMS}.", param="source", code="invalid_source")


def get(session: Session, import_id: str) -> ModelImport:
    imported = session.get(ModelImport, import_id)
    if imported is None:
        raise NotFound(f"No such import of a model: {import_id}", param="import_id")
    return imported


def newest(session: Session) -> Sequence[ModelImport]:
    statement = select(ModelImport).order_by(ModelImport.created_at.desc(), ModelImport.id.desc())
    return session.scalars(statement.limit(MAX_LISTED)).all()
