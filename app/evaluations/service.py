"""Use cases of evaluations of a job."""

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.catalogue import service as catalogue
from app.evaluations import repository
from app.evaluations.schemas import EvaluationObject, EvaluationRequest
from app.files import service as files
from app.http.pagination import Page, check_cursor
from app.jobs import service as jobs
from app.jobs.base_model import own_checkpoint
from app.jobs.checkpoints import checkpoint_name
from app.models import Evaluation, Job, OperationStatus
from app.models.evaluation import EvaluatedModel, EvaluationPlan, Origin
from app.operations import service as operations
from app.services import Services

MAX_IN_PROGRESS = 3  # per project; each sends a model hundreds of prompts
ID_PREFIX = "eval-"


def create_evaluation(
    services: Services, caller: Caller, job_id: str, request: EvaluationRequest
) -> EvaluationObject:
    """Have a worker send the same prompts to the job's models and to the base. Raises if the
    evaluation could only fail.
    """
    project_id = caller.project_id
    with services.database.transaction() as session:
        job = jobs.get(session, project_id, job_id)
        file_id, origin = _rows_of(session, project_id, job, request.file)
        plan = EvaluationPlan(
            graders=request.graders,
            models=_models_of(session, project_id, job, request.checkpoints),
            max_rows=request.max_rows,
            max_tokens=request.max_tokens,
        )
        operations.admit(session, Evaluation, project_id, MAX_IN_PROGRESS)
        evaluation = Evaluation(
            id=new_id(ID_PREFIX),
            project_id=project_id,
            job_id=job.id,
            file_id=file_id,
            origin=origin,
            plan=plan,
            status=OperationStatus.IN_PROGRESS,
        )
        session.add(evaluation)
        session.flush()
        created = EvaluationObject.of(evaluation)
        audit.record(session, caller, "evaluation.created", created.id)
    services.notifier.notify(Evaluation, created.id)
    return created


def list_evaluations(
    services: Services, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> Page[EvaluationObject]:
    """List evaluations, the newest first."""
    with services.database.read() as session:
        evaluations = page(session, caller.project_id, job_id, after=after, limit=limit)
        objects = [EvaluationObject.of(evaluation) for evaluation in evaluations]
    return Page[EvaluationObject].of(objects, limit)


def retrieve_evaluation(
    services: Services, caller: Caller, job_id: str, evaluation_id: str
) -> EvaluationObject:
    with services.database.read() as session:
        return EvaluationObject.of(get(session, caller.project_id, job_id, evaluation_id))


def get(session: Session, project_id: str, job_id: str, evaluation_id: str) -> Evaluation:
    jobs.get(session, project_id, job_id)
    evaluation = repository.find(session, project_id, job_id, evaluation_id)
    if evaluation is None:
        raise NotFound(
            f"There is no evaluation '{evaluation_id}' of this job.",
            param="evaluation_id",
            code="evaluation_not_found",
        )
    return evaluation


def can_evaluate(job: Job) -> bool:
    """Return whether the job has a model, and rows that it was not trained on."""
    return job.fine_tuned_model_id is not None and _held_out(job) is not None


def page(
    session: Session, project_id: str, job_id: str, *, after: str | None, limit: int
) -> list[Evaluation]:
    """Return the newest first, at most one more than `limit`."""
    check_cursor(after, ID_PREFIX, "an evaluation")
    jobs.get(session, project_id, job_id)
    return repository.newest_first(session, project_id, job_id, after=after, limit=limit)


def _held_out(job: Job) -> tuple[str, Origin] | None:
    """Return the file with the rows that the job held out, and the reason for that file."""
    if job.validation_file_id is not None:
        return job.validation_file_id, "validation_file"
    if job.recipe is not None and job.recipe.validation_fraction:
        return job.training_file_id, "validation_fraction"
    return None


def _rows_of(
    session: Session, project_id: str, job: Job, file_id: str | None
) -> tuple[str, Origin]:
    """Return the file with the rows, and the reason for that file."""
    origin: Origin = "file"
    if file_id is None and (held_out := _held_out(job)) is not None:
        file_id, origin = held_out
    if file_id is None:
        raise InvalidRequest(
            "file: this job held nothing out; name a file of rows that it was not trained on.",
            param="file",
            code="no_held_out_rows",
        )
    if file_id == job.training_file_id and origin == "file":
        raise InvalidRequest(
            "file: the job was trained on these rows; name others.",
            param="file",
            code="rows_were_trained_on",
        )
    return files.get_usable(session, project_id, file_id, "file").id, origin


def _models_of(
    session: Session, project_id: str, job: Job, steps: list[int]
) -> list[EvaluatedModel]:
    """Return the models to evaluate, the base first. Raises if a model is not in the catalogue."""
    base = job.base_model_id if job.base_checkpoint_id is None else job.requested.model
    models = [EvaluatedModel(model=base, role="base")]
    model_id = jobs.model_id(session, job)
    for step in sorted(set(steps)):
        name = checkpoint_name(model_id, step)
        own_checkpoint(session, project_id, name)
        models.append(EvaluatedModel(model=name, role="checkpoint", step=step))
    if job.fine_tuned_model_id is not None:
        models.append(EvaluatedModel(model=job.fine_tuned_model_id, role="result"))
    if len(models) == 1:
        raise IllegalState(
            f"The job is {job.status} and has no model yet; name checkpoints, or evaluate it when "
            "it has succeeded.",
            code="no_model_to_evaluate",
        )
    for model in models:
        _require(session, project_id, model.model)
    return models


def _require(session: Session, project_id: str, model_id: str) -> None:
    try:
        catalogue.get(session, project_id, model_id)
    except NotFound as error:
        if ":ckpt-step-" not in model_id:
            raise
        raise InvalidRequest(
            f"checkpoints: '{model_id}' cannot be evaluated until it is exported: POST "
            f'/v1/models/{model_id}/exports {{"format": "fp8"}}, and evaluate it when that has '
            "completed.",
            param="checkpoints",
            code="checkpoint_not_exported",
        ) from error
