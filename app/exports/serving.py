"""The two ways in which the model of a job answers: merged, and as an adapter on its base. Free of
the web framework: the worker that publishes a result chooses, too.
"""

from sqlalchemy.orm import Session

from app.base.errors import ApiError, InvalidRequest
from app.catalogue import service as catalogue
from app.exports import plan, repository
from app.files import lookup as files
from app.jobs.events import NewEvent, append
from app.models import Job, Model, Project
from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import SharedUnavailable, check_shared


def begin(session: Session, job: Job) -> None:
    """Have the model of a job served as the job asks, or else its project, in the transaction that
    publishes the model. Where that is impossible, it answers merged, and an event says why.
    """
    wanted = job.requested.falqon.serve_as
    wanted = wanted or session.get_one(Project, job.project_id).serve_as
    if wanted == "merged" or job.fine_tuned_model_id is None:
        return
    model = session.get_one(Model, job.fine_tuned_model_id)
    try:
        source = plan.find_source(session, job.project_id, model.id)
        check(session, source)
    except ApiError as error:
        text = f"The model answers merged, not shared: {error.message.removeprefix('serve_as: ')}"
        append(session, job.id, [NewEvent(text, level="warn", data={"code": error.code})])
        return
    model.serve_as = "shared"
    repository.add(session, plan.new_export(job.project_id, source, catalogue.ADAPTER))


def check(session: Session, source: plan.ExportSource) -> None:
    """Raise `InvalidRequest` where a model cannot answer as an adapter, or nothing is there to
    measure its distance on.
    """
    model, job = source.model, source.job
    if not catalogue.lock_base_of(session, model):
        raise _refusal("its base model has been deleted", "base_model_deleted")
    if job is not None and job.recipe is not None:
        _check_recipe(job.recipe, model)
    if catalogue.is_measured(session, model):
        return
    try:
        plan.check(source, catalogue.ADAPTER)
    except ApiError as error:
        raise _refusal(error.message.removeprefix("format: "), SharedUnavailable.code) from None
    if job is not None:
        ids = (job.training_file_id, job.validation_file_id)
        if any(id_ and files.find(session, job.project_id, id_) is None for id_ in ids):
            raise unmeasured()


def unmeasured() -> InvalidRequest:
    return _refusal(
        "how far its adapter is from the merged model was not measured, as a file of the job has "
        "been deleted",
        "bound_not_measured",
    )


def _check_recipe(recipe: Recipe, model: Model) -> None:
    try:
        check_shared(recipe, model.config)
    except SharedUnavailable as error:
        raise _refusal(str(error).removeprefix("format: "), error.code) from None


def _refusal(reason: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"serve_as: {reason.removesuffix('.')}.", param="serve_as", code=code)
