"""Check a request for a job: every refusal, before anything is written."""

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.base.errors import InvalidRequest
from app.base.settings import Settings
from app.estimates import service as estimates
from app.files import lookup as files
from app.jobs import space
from app.jobs.base_model import base_of
from app.jobs.gpus import choose_num_gpus
from app.jobs.requests import RequestedRecipe, resolve_recipe
from app.jobs.resolution import FilePlan, JobPlan, check_held_out, incompatibility
from app.models import Checkpoint, FileStatus, Model
from app.models.job_request import JobRequest
from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import SharedUnavailable, check_shared


def plan_job(
    session: Session,
    project_id: str,
    request: JobRequest,
    settings: Settings,
    *,
    lock: bool = False,
) -> FilePlan:
    """Plan a job; with `lock` model and files stay as they are."""
    model = _plan_model(session, project_id, request, settings, lock=lock)
    training, validation = files.get_for_job(
        session, project_id, request.training_file, request.validation_file, lock=lock
    )
    num_gpus = choose_num_gpus(session, project_id, request, settings)
    plan = FilePlan(project_id, request, *model, num_gpus, training, validation)
    for param, file in plan.files.items():
        is_checked = file.status == FileStatus.PROCESSED
        if is_checked and (reason := incompatibility(file, plan.requested.recipe)):
            raise InvalidRequest(f"{param}: {reason}", param=param, code=f"invalid_{param}")
    if training.status == FileStatus.PROCESSED:
        check_held_out(plan)
    return plan


def plan_without_files(
    session: Session, project_id: str, request: JobRequest, settings: Settings
) -> JobPlan:
    """Plan a job whose training file is not here yet."""
    model = _plan_model(session, project_id, request, settings, lock=False)
    num_gpus = choose_num_gpus(session, project_id, request, settings)
    return JobPlan(project_id, request, *model, num_gpus)


def _plan_model(
    session: Session, project_id: str, request: JobRequest, settings: Settings, *, lock: bool
) -> tuple[RequestedRecipe, Model, Checkpoint | None]:
    requested = resolve_recipe(request)
    _check_switch(session, project_id, request)
    estimates.check_device(session, request.falqon.gpu, settings)
    name = aliases.resolve(session, project_id, request.model)
    model, checkpoint = base_of(session, project_id, name, lock=lock)
    estimates.check_fits_model(model.config, requested.recipe)
    if request.falqon.serve_as == "shared":
        _check_shared(requested.recipe, model, checkpoint)
    _check_fits_disk(model, requested.recipe, settings)
    return requested, model, checkpoint


def _check_switch(session: Session, project_id: str, request: JobRequest) -> None:
    """Raise `InvalidRequest` where the project has no such name to switch."""
    switch = request.falqon.switch
    if switch is not None and aliases.find_own(session, project_id, switch.alias) is None:
        raise InvalidRequest(
            f"falqon.switch.alias: the project has no name '{switch.alias}' of its own; "
            f"`falqon aliases set {switch.alias} MODEL` lets it stand for today's model.",
            param="falqon.switch.alias",
            code="alias_not_found",
        )


def _check_shared(recipe: Recipe, model: Model, checkpoint: Checkpoint | None) -> None:
    """Raise `InvalidRequest` where the job's model could not answer as an adapter."""
    param = "falqon.serve_as"
    if checkpoint is not None:
        message = "the job continues from a checkpoint, which is no base model that engines have"
        raise InvalidRequest(f"{param}: {message}.", param=param, code=SharedUnavailable.code)
    try:
        check_shared(recipe, model.config)
    except SharedUnavailable as error:
        message = f"{param}: {str(error).removeprefix('format: ')}."
        raise InvalidRequest(message, param=param, code=error.code) from None


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
