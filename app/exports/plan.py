"""Sources of exports, and what of them can be had. Free of the web framework: the worker that
publishes a result may begin one.
"""

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.catalogue import service as catalogue
from app.jobs import lookup as jobs
from app.jobs.base_model import own_checkpoint
from app.jobs.checkpoints import CheckpointName
from app.models import Export, Job, Model, OperationStatus
from app.models.job_lifecycle import TERMINAL
from falqon_core.contract.block_weights import title_of
from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import (
    FROM_CHECKPOINT,
    TRAINED_FORMATS,
    FormatName,
    FormatUnavailable,
    check_format,
)
from falqon_core.contract.quantization_config import weights_of

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


def find_source(session: Session, project_id: str, name: str) -> ExportSource:
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


def check(source: ExportSource, format: FormatName) -> None:
    recipe = recipe_of(source)
    if source.step is None and format == recipe.weights:
        raise InvalidRequest(
            f"format: '{source.name}' is the {title_of(recipe.weights)} model already.",
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
    try:
        check_format(format, recipe, source.model.config)
    except FormatUnavailable as error:
        raise InvalidRequest(f"{error}.", param=error.param, code=error.code) from None


def recipe_of(source: ExportSource) -> Recipe:
    """Return the recipe of the job; where that is gone, as much of it as its model says."""
    if source.job is not None and source.job.recipe is not None:
        return source.job.recipe
    is_result = source.step is None
    return Recipe(weights=weights_of(source.model.config) or "fp8") if is_result else Recipe()


def new_export(project_id: str, source: ExportSource, format: FormatName) -> Export:
    return Export(
        id=new_id(ID_PREFIX),
        project_id=project_id,
        source=source.name,
        job_id=source.job_id,
        step=source.step,
        format=format,
        exported_model_id=source.name if format in TRAINED_FORMATS else f"{source.name}:{format}",
        status=OperationStatus.IN_PROGRESS,
    )


def _job(session: Session, project_id: str, job_id: str) -> Job | None:
    with suppress(NotFound):
        return jobs.get(session, project_id, job_id)
    return None
