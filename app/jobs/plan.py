"""Plan of a requested job: every refusal, and the estimate, before any write."""

from typing import NamedTuple

from sqlalchemy.orm import Session

from app.base.errors import InvalidRequest
from app.base.settings import Settings
from app.dataset_statistics.service import exact_amount
from app.estimates import service as estimates
from app.files import service as files
from app.files.unused import describe_unused_fields
from app.jobs import space
from app.jobs.base_model import base_of
from app.jobs.gpus import choose_num_gpus, limit_auto
from app.jobs.requests import RequestedRecipe, resolve_recipe
from app.jobs.validation import incompatibility
from app.models import (
    Checkpoint,
    File,
    FileStatus,
    Model,
)
from app.models.job_request import JobRequest, TrainingData
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Estimate
from falqon_core.estimate.long_text import EpochAmount
from falqon_core.records.file_check import FileReport


class JobPlan(NamedTuple):
    """Request that can be executed."""

    requested: RequestedRecipe
    model: Model
    checkpoint: Checkpoint | None  # checkpoint of a training of that model, to continue from
    training: File
    validation: File | None
    request: JobRequest
    num_gpus: int

    @property
    def report(self) -> FileReport | None:
        if self.training.status == FileStatus.PROCESSED:
            return self.training.report
        return None


def plan_job(
    session: Session,
    project_id: str,
    request: JobRequest,
    settings: Settings,
    *,
    lock: bool = False,
) -> JobPlan:
    """Plan a job, with every refusal before anything is written; with `lock` model and files stay
    as they are.
    """
    requested, model, checkpoint = _plan_model(session, project_id, request, settings, lock=lock)
    planned = JobPlan(
        requested,
        model,
        checkpoint,
        *files.get_for_job(
            session, project_id, request.training_file, request.validation_file, lock=lock
        ),
        request,
        choose_num_gpus(session, request, settings),
    )
    for param, file in (
        ("training_file", planned.training),
        ("validation_file", planned.validation),
    ):
        if (
            file
            and file.status == FileStatus.PROCESSED
            and (reason := incompatibility(file, requested.recipe))
        ):
            raise InvalidRequest(f"{param}: {reason}", param=param, code=f"invalid_{param}")
    report = planned.report
    if (
        report is not None
        and estimates.num_training_records(requested.recipe, report.num_records) < 1
    ):
        raise InvalidRequest(
            f"falqon.validation_fraction: {report.num_records} records are too few "
            "to hold some out.",
            param="falqon.validation_fraction",
        )
    return planned


def estimate_data(
    session: Session,
    project_id: str,
    request: JobRequest,
    data: TrainingData,
    settings: Settings,
    target: estimates.TrainingTarget | None = None,
) -> Estimate:
    """Estimate a job whose training file has not been uploaded yet."""
    requested, model, _ = _plan_model(session, project_id, request, settings, lock=False)
    recipe = requested.resolved(data.num_records)
    return estimates.estimate_job(
        session,
        model,
        recipe,
        FileReport(num_records=data.num_records),
        settings,
        project_id=project_id,
        amount=EpochAmount(data.num_records, data.num_tokens),
        tokens_basis="stated",
        target=target,
        gpu=request.falqon.gpu,
        num_gpus=limit_auto(choose_num_gpus(session, request, settings), request, recipe),
    )


def _plan_model(
    session: Session, project_id: str, request: JobRequest, settings: Settings, *, lock: bool
) -> tuple[RequestedRecipe, Model, Checkpoint | None]:
    requested = resolve_recipe(request)
    estimates.check_device(session, request.falqon.gpu, settings)
    name = settings.model_named(request.model)
    model, checkpoint = base_of(session, project_id, name, lock=lock)
    estimates.check_fits_model(model.config, requested.recipe)
    _check_fits_disk(model, requested.recipe, settings)
    return requested, model, checkpoint


def _check_fits_disk(model: Model, recipe: Recipe, settings: Settings) -> None:
    """Raise `InvalidRequest` for a job that the storage can never hold, if that is a folder of this
    machine.
    """
    folder = settings.storage_folder
    if folder is None or not folder.is_dir():
        return
    if reason := space.describe_shortage(
        folder, space.expected_bytes(model.config, recipe), "the storage"
    ):
        advice = "Choose a smaller model, falqon.rank or falqon.keep_checkpoints."
        raise InvalidRequest(f"model: {reason}. {advice}", param="model", code=space.TOO_LARGE)


def estimate_plan(
    session: Session,
    planned: JobPlan,
    settings: Settings,
    target: estimates.TrainingTarget | None = None,
) -> tuple[Recipe, Estimate]:
    report = planned.report
    if report is None:
        raise InvalidRequest(
            f"training_file: {planned.training.id} is still being checked; try again when its "
            "status is 'processed'.",
            param="training_file",
            code="file_not_processed",
        )
    recipe = planned.requested.resolved(report.num_records)
    amount = exact_amount(session, planned.training.id, planned.model.id, recipe)
    estimate = estimates.estimate_job(
        session,
        planned.model,
        recipe,
        report,
        settings,
        project_id=planned.training.project_id,
        amount=amount,
        target=target,
        gpu=planned.request.falqon.gpu,
        num_gpus=limit_auto(planned.num_gpus, planned.request, recipe),
    )
    if warning := describe_unused_fields(session, planned.training):
        estimate = estimate.model_copy(update={"warnings": [*estimate.warnings, warning]})
    return recipe, estimate
