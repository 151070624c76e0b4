"""Use cases of exports of a model."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.catalogue import service as catalogue
from app.catalogue.schemas import ModelObject
from app.exports import plan, repository, serving
from app.exports.schemas import ExportObject
from app.http.pagination import Page
from app.jobs.checkpoints import CheckpointName
from app.models import Export, OperationStatus
from app.models.model import ServeAs
from app.operations import claims
from app.operations import service as operations
from app.services import Services
from falqon_core.contract.formats import FORMAT_DESCRIPTIONS, FormatName

MAX_IN_PROGRESS = 10  # per project; each takes a worker minutes


def create_export(
    services: Services, caller: Caller, model_id: str, format: FormatName
) -> ExportObject:
    """Have a worker convert a model into another format, unless that is done or in progress."""
    with services.database.transaction() as session:
        export = ExportObject.of(request_export(session, caller, model_id, format))
    if export.status == "in_progress":
        services.notifier.notify(Export, export.id)
    return export


def set_serving(
    services: Services, caller: Caller, model_id: str, serve_as: ServeAs
) -> ModelObject:
    """Choose how the model of a job answers. A worker makes the adapter of one that is to be
    shared, and measures it; until then the merged model answers.
    """
    export = None
    with services.database.transaction() as session:
        model = catalogue.lock_fine_tuned(session, caller.project_id, model_id)
        if serve_as == "shared":
            source = plan.find_source(session, caller.project_id, model_id)
            serving.check(session, source)
            if not catalogue.is_measured(session, model):
                _make(session, caller.project_id, source, catalogue.ADAPTER)
                export = get(session, caller.project_id, model_id, catalogue.ADAPTER)
                if export.status == OperationStatus.COMPLETED:
                    raise serving.unmeasured()
        if model.serve_as != serve_as:
            model.serve_as = serve_as
            audit.record(session, caller, "model.updated", model_id)
            session.flush()
        described = catalogue.describe(session, model)
    if export is not None:
        services.notifier.notify(Export, export.id)
    return described


def list_exports(services: Services, caller: Caller, model_id: str) -> Page[ExportObject]:
    with services.database.read() as session:
        source = plan.find_source(session, caller.project_id, model_id)
        exports = repository.list_of_source(session, caller.project_id, source.name)
        return Page[ExportObject].of([ExportObject.of(export) for export in exports])


def retrieve_export(services: Services, caller: Caller, model_id: str, format: str) -> ExportObject:
    with services.database.read() as session:
        return ExportObject.of(get(session, caller.project_id, model_id, format))


def of_checkpoints(
    session: Session, project_id: str, names: Sequence[str], format: FormatName
) -> dict[str, Export]:
    """Return the requested exports to a format by the name of the checkpoint."""
    exports = repository.list_of_sources(session, project_id, names, format)
    return {export.source: export for export in exports}


def get(session: Session, project_id: str, name: str, format: str) -> Export:
    export = repository.find(session, project_id, name, format)
    # It may be there longer than a checkpoint: a job that goes on deletes its older ones.
    if export is None or CheckpointName.parse(name) is None:
        plan.find_source(session, project_id, name)
    if export is None:
        raise NotFound(
            f"There is no export of '{name}' as '{format}'; a POST to its exports creates it.",
            param="format",
            code="export_not_found",
        )
    return export


def refusals(session: Session, project_id: str, name: str) -> dict[FormatName, str]:
    """Return the formats that it cannot be exported to, each with the reason."""
    source = plan.find_source(session, project_id, name)
    reasons = dict[FormatName, str]()
    for format in FORMAT_DESCRIPTIONS:
        try:
            plan.check(source, format)
        except (InvalidRequest, IllegalState) as refusal:
            reasons[format] = refusal.message.removeprefix("format: ")
    return reasons


def request_export(session: Session, caller: Caller, name: str, format: FormatName) -> Export:
    """Request an export. A second request returns the first one; after a failure, or when the
    exported model has been deleted, it is made again.
    """
    source = plan.find_source(session, caller.project_id, name)
    if _make(session, caller.project_id, source, format):
        audit.record(session, caller, "export.created", name)
    return get(session, caller.project_id, name, format)


def _make(session: Session, project_id: str, source: plan.ExportSource, format: FormatName) -> bool:
    """Have it made, unless that is done or in progress."""
    plan.check(source, format)
    export = repository.find(session, project_id, source.name, format)
    is_new = export is None or _is_over(session, export)
    if is_new:
        operations.admit(session, Export, project_id, MAX_IN_PROGRESS)
        if export is None:
            repository.add(session, plan.new_export(project_id, source, format))
        else:
            claims.restart(session, export, new_id(plan.ID_PREFIX))
        session.flush()
    session.expire_all()
    return is_new


def _is_over(session: Session, export: Export) -> bool:
    if export.status == OperationStatus.COMPLETED:
        return not catalogue.exists(session, export.exported_model_id)
    return export.status == OperationStatus.FAILED
