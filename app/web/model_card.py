"""The top of a model's page: its size and licence, and what its job measured and answered."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.catalogue import service as catalogue
from app.catalogue.schemas import ModelObject
from app.jobs import history
from app.jobs import service as jobs
from app.jobs.checkpoints import best_of, checkpoint_name
from app.jobs.effective_steps import effective_steps
from app.models import Job
from app.models.base import JsonObject
from app.models.job_progress import JobProgress
from app.web.job_answers import AnsweredPrompt, answered
from app.web.job_view import MAX_CHECKPOINTS, read_messages
from app.web.model_view import Generation
from falqon_core.contract.errors import ModelError
from falqon_core.estimate.dimensions import ModelDimensions

MAX_ANSWERS = 3


@dataclass(frozen=True, slots=True)
class ModelCard:
    num_parameters: int | None
    context: int | None
    job: Job | None
    valid_loss: float | None
    served: JobProgress | None  # its job's, where it is the model that the job handed out
    prompts: Sequence[AnsweredPrompt]


def read_card(
    session: Session, project_id: str, model: ModelObject, line: Sequence[Generation]
) -> ModelCard:
    """Gather the card of a model; an export shows what the job of its model measured."""
    dimensions = _dimensions(catalogue.get(session, project_id, model.id).config)
    job = next((each.job for each in line[:2] if each.job is not None), None)
    if model.fine_tuning_job is None:
        job = None
    valid_loss, served = _losses(session, model.id, job)
    return ModelCard(
        num_parameters=dimensions.num_parameters if dimensions else None,
        context=dimensions.max_position_embeddings if dimensions else None,
        job=job,
        valid_loss=valid_loss,
        served=served,
        prompts=_prompts(session, job),
    )


def _dimensions(config: JsonObject) -> ModelDimensions | None:
    try:
        return ModelDimensions.from_config(config)
    except ModelError:
        return None


def _losses(
    session: Session, model_id: str, job: Job | None
) -> tuple[float | None, JobProgress | None]:
    """Return the loss of the checkpoint that the model is, else the job's lowest; and of the job's
    own model the progress with the losses of the merged model.
    """
    if job is None:
        return None, None
    checkpoints = jobs.checkpoints(session, job, after=None, limit=MAX_CHECKPOINTS)
    of_job = jobs.model_id(session, job)
    own = [each for each in checkpoints if checkpoint_name(of_job, each.step) == model_id]
    if own:
        return own[0].metrics.get("valid_loss"), None
    best = best_of(checkpoints)
    served = job.progress if model_id == of_job else None
    return best.metrics.get("valid_loss") if best else None, served


def _prompts(session: Session, job: Job | None) -> Sequence[AnsweredPrompt]:
    if job is None:
        return []
    messages, _ = read_messages(session, job.id)
    effective = effective_steps(session, [job.id])[job.id]
    return answered(history.list_prompts(messages, effective))[:MAX_ANSWERS]
