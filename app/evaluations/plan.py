"""Rows and models of an evaluation. Free of the web framework: the worker that publishes a result
plans one, too.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.errors import Forbidden, IllegalState, InvalidRequest, NotFound
from app.base.ids import new_id
from app.base.settings import Settings
from app.catalogue import service as catalogue
from app.files import lookup as files
from app.jobs import lookup as jobs
from app.jobs.base_model import began_from, own_checkpoint, trained_format
from app.jobs.checkpoints import checkpoint_name
from app.models import Evaluation, Job, OperationStatus, Scope
from app.models.alias import is_upstream
from app.models.evaluation import EvaluatedModel, EvaluationPlan, Origin
from app.models.graders import Graders

ID_PREFIX = "eval-"


def add(
    session: Session,
    job: Job,
    file_id: str,
    origin: Origin,
    plan: EvaluationPlan,
    key_id: str | None,
) -> Evaluation:
    """Add an evaluation for a worker to take. `key_id`: the key whose usage it is."""
    evaluation = Evaluation(
        id=new_id(ID_PREFIX),
        project_id=job.project_id,
        job_id=job.id,
        key_id=key_id,
        file_id=file_id,
        origin=origin,
        plan=plan,
        status=OperationStatus.IN_PROGRESS,
    )
    session.add(evaluation)
    session.flush()
    return evaluation


def held_out(job: Job) -> tuple[str, Origin] | None:
    """Return the file with the rows that the job held out, and the reason for that file."""
    if job.validation_file_id is not None:
        return job.validation_file_id, "validation_file"
    if job.recipe is not None and job.recipe.validation_fraction:
        return job.training_file_id, "validation_fraction"
    return None


def rows_of(session: Session, project_id: str, job: Job, file_id: str | None) -> tuple[str, Origin]:
    """Return the file with the rows, and the reason for that file."""
    origin: Origin = "file"
    if file_id is None and (kept := held_out(job)) is not None:
        file_id, origin = kept
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


def models_of(
    session: Session,
    project_id: str,
    job: Job,
    steps: Sequence[int] = (),
    rivals: Sequence[str] = (),
) -> list[EvaluatedModel]:
    """Return the models to evaluate, the base first. Raises if a model is not in the catalogue."""
    base = began_from(session, job)
    models = [EvaluatedModel(model=base, role="base")]
    models += [EvaluatedModel(model=rival, role="current") for rival in rivals if rival != base]
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


def check_judges(session: Session, caller: Caller, settings: Settings, graders: Graders) -> None:
    """Raise `InvalidRequest` for a judge that is neither a model of the project nor one that the
    operator names, and `Forbidden` for an agent's key that would ask one of the operator: no budget
    counts that.
    """
    for judge in graders.judges:
        if judge in settings.judge_models:
            if caller.scope is Scope.AGENT:
                raise Forbidden(
                    f"graders: an agent's key asks no judge of the operator's, such as '{judge}'; "
                    "take a model of /v1/models.",
                    param="graders",
                )
            continue
        try:
            catalogue.get(session, caller.project_id, judge)
        except NotFound as error:
            external = ", ".join(settings.judge_models) or "none"
            raise InvalidRequest(
                f"graders: no model '{judge}' judges here; take one of /v1/models, or of the "
                f"operator's judges ({external}).",
                param="graders",
                code="judge_not_found",
            ) from error


def _require(session: Session, project_id: str, model_id: str) -> None:
    if is_upstream(model_id):  # of a name, whose models were checked
        return
    try:
        catalogue.get(session, project_id, model_id)
    except NotFound as error:
        if ":ckpt-step-" not in model_id:
            raise
        format = trained_format(session, project_id, model_id)
        raise InvalidRequest(
            f"checkpoints: '{model_id}' cannot be evaluated until it is exported: POST "
            f'/v1/models/{model_id}/exports {{"format": "{format}"}}, and evaluate it when that '
            "has completed.",
            param="checkpoints",
            code="checkpoint_not_exported",
        ) from error
