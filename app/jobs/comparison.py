"""Measurements of several jobs, for a table that compares them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.catalogue import service as catalogue
from app.jobs.requests import read_recipe
from app.models import Job
from app.models.job_progress import JobProgress
from falqon_core.contract.config import Recipe
from falqon_core.estimate.comparison import TrainingFigures


def recipe_of(job: Job) -> Recipe:
    """Return the resolved recipe; before the files are checked, the requested one."""
    return job.recipe or read_recipe(job.requested).recipe


def figures_of(
    session: Session, project_id: str, jobs: Sequence[Job]
) -> dict[str, TrainingFigures]:
    """Return the figures of the project's jobs by their ids."""
    model_ids = [job.fine_tuned_model_id for job in jobs if job.fine_tuned_model_id is not None]
    sizes = catalogue.sizes(session, project_id, model_ids)
    return {job.id: _figures(job, sizes.get(job.fine_tuned_model_id or "")) for job in jobs}


def _figures(job: Job, artifact_bytes: int | None) -> TrainingFigures:
    progress = job.progress or JobProgress()
    return TrainingFigures(
        trained_parameters=progress.num_trainable_parameters,
        learning_rate=job.recipe.learning_rate if job.recipe else None,
        steps=progress.step or None,
        valid_loss=progress.valid_loss,
        valid_loss_fp8_weights=progress.valid_loss_fp8_weights,
        valid_loss_as_served=progress.valid_loss_as_served,
        seconds_per_step=progress.seconds_per_step,
        tokens_per_second=progress.tokens_per_second,
        memory_bytes=progress.memory_bytes,
        artifact_bytes=artifact_bytes,
        cost=progress.cost.accrued if progress.cost else None,
    )
