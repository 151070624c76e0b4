"""Use cases of exports of a model."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.catalogue import service as catalogue
from app.exports import repository
from app.exports.schemas import ExportObject
from app.http.pagination import Page
from app.jobs import service as jobs
from app.jobs.base_model import own_checkpoint
from app.jobs.checkpoints import CheckpointName
from app.models import Export, Job, Model, OperationStatus
from app.models.job_lifecycle import TERMINAL
from app.operations import claims
from app.operations import service as operations
from app.services import Services
from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import (
    FORMAT_DESCRIPTIONS,
    FROM_CHECKPOINT,
    FormatName,
    FormatUnavailable,
    check_format,
)

MAX_IN_PROGRESS = 10  # per project; each takes a worker minutes
ID_PREFIX = "export-"


@dataclass(frozen=True, slots=True)
class ExportSource:
    """Source of an export: the model of a job, or with `step` one of its checkpoints. `job` is None
    once it has been deleted.
    """

    name: str
    job_id: str
    job: Job | None
    step: int | None
    # The model's own dimensions, or for a checkpoint those of the model that its training began
    # from: the architecture is the same.
    model: Model


def create_export(
    services: Services, caller: Caller, model_id: str, format: FormatName
) -> ExportObject:
    """Have a worker convert a model into another format, unless that is done or in progress."""
    with services.database.transaction() as session:
        export = ExportObject.of(request_export(session, caller, model_id, format))
    if export.status == "in_progress":
        services.notifier.notify(Export, export.id)
    return export


def list_exports(services: Services, caller: Caller, model_id: str) -> Page[ExportObject]:
    with services.database.read() as session:
        source = _source(session, caller.project_id, model_id)
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
        _source(session, project_id, name)
    if export is None:
        raise NotFound(
            f"There is no export of '{name}' as '{format}'; a POST to its exports creates it.",
            param="format",
            code="export_not_found",
        )
    return export


def refusals(session: Session, project_id: str, name: str) -> dict[FormatName, str]:
    """Return the formats that it cannot be exported to, each with the reason."""
    source = _source(session, project_id, name)
    reasons = dict[FormatName, str]()
    for format in FORMAT_DESCRIPTIONS:
        try:
            _check(source, format)
        except (InvalidRequest, IllegalState) as refusal:
            reasons[format] = refusal.message.removeprefix("format: ")
    return reasons


def request_export(session: Session, caller: Caller, name: str, format: FormatName) -> Export:
    """Request an export. A second request returns the first one; after a failure, or when the
    exported model has been deleted, it is made again.
    """
    project_id = caller.project_id
    source = _source(session, project_id, name)
    _check(source, format)
    export = repository.find(session, project_id, name, format)
    if export is None or _is_over(session, export):
        operations.admit(session, Export, project_id, MAX_IN_PROGRESS)
        if export is None:
            repository.add(session, _operation(project_id, source, format))
        else:
            claims.restart(session, export, new_id(ID_PREFIX))
        audit.record(session, caller, "export.created", name)
        session.flush()
    session.expire_all()
    return get(session, project_id, name, format)


def _source(session: Session, project_id: str, name: str) -> ExportSource:
    """Find the source of the export: a checkpoint as long as it exists, with or without a model of
    it.
    """
    parsed = CheckpointName.parse(name)
    if parsed is not None:
        checkpoint = own_checkpoint(session, project_id, name)
        job = jobs.get(session, project_id, checkpoint.job_id)
        return ExportSource(
            name,
            job.id,
            job,
            checkpoint.step,
            catalogue.get(session, project_id, job.base_model_id),
        )
    model = catalogue.get(session, project_id, name)
    if model.job_id is None or model.format is not None:
        raise InvalidRequest(
            f"model: '{name}' is not the result of a fine-tuning job; "
            "only those and their checkpoints are exported.",
            param="model",
            code="model_not_exportable",
        )
    return ExportSource(name, model.job_id, _job(session, project_id, model.job_id), None, model)


def _check(source: ExportSource, format: FormatName) -> None:
    if source.step is None and format == "fp8":
        raise InvalidRequest(
            f"format: '{source.name}' is the FP8 model already.",
            param="format",
            code="format_not_available",
        )
    if source.job is None and format in FROM_CHECKPOINT:
        raise InvalidRequest(
            "format: it is made from the job's last checkpoint, "
            "and the job has been deleted with its checkpoints.",
            param="format",
            code="format_not_available",
        )
    job = source.job
    if format == "gguf_lora" and job is not None and job.base_checkpoint_id:
        raise InvalidRequest(
            "format: the job continued from a checkpoint, which is no base model that engines "
            "have; take gguf.",
            param="format",
            code="format_not_available",
        )
    # An adapter is small enough to be made while the job goes on.
    if job is not None and job.status not in TERMINAL and format != "gguf_lora":
        raise IllegalState(
            f"The job of '{source.name}' is {job.status}; its checkpoints can be exported "
            "when it has ended, until then as gguf_lora."
        )
    recipe = (source.job.recipe if source.job else None) or Recipe()
    try:
        check_format(format, recipe, source.model.config)
    except FormatUnavailable as error:
        raise InvalidRequest(f"{error}.", param=error.param, code=error.code) from None


def _is_over(session: Session, export: Export) -> bool:
    if export.status == OperationStatus.COMPLETED:
        return not catalogue.exists(session, export.exported_model_id)
    return export.status == OperationStatus.FAILED


def _job(session: Session, project_id: str, job_id: str) -> Job | None:
    with suppress(NotFound):
        return jobs.get(session, project_id, job_id)
    return None


def _operation(project_id: str, source: ExportSource, format: FormatName) -> Export:
    return Export(
        id=new_id(ID_PREFIX),
        project_id=project_id,
        source=source.name,
        job_id=source.job_id,
        step=source.step,
        format=format,
        exported_model_id=source.name if format == "fp8" else f"{source.name}:{format}",
        status=OperationStatus.IN_PROGRESS,
    )
