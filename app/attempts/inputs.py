"""Inputs of an attempt."""

from sqlalchemy.orm import Session

from app.artifacts import repository as artifacts
from app.attempts.values import Inputs
from app.catalogue import repository as catalogue
from app.catalogue.naming import fine_tuned_model_id
from app.jobs import checkpoint_repository as checkpoints
from app.jobs import repository as jobs
from app.jobs.base_model import began_from_by_job
from app.models import Checkpoint, Job


def read(session: Session, job: Job) -> Inputs:
    bases: dict[str, tuple[Job, Checkpoint]] = {}
    root = job
    while (id_ := root.base_checkpoint_id) is not None:
        row = checkpoints.find_with_job(session, id_)
        if row is None:
            break
        bases[id_] = row
        root = row[0]
    model = catalogue.find_in_any_project(session, job.base_model_id)
    assert model is not None, "its row outlives its deletion"
    return Inputs(
        files=list(jobs.files_of(session, job).values()),
        checkpoints=checkpoints.of_job(session, job.id),
        bases=bases,
        began_from=began_from_by_job(session, [job, *(row[0] for row in bases.values())]),
        artifacts={root.base_model_id: artifacts.list_of_model(session, root.base_model_id)},
        base_config=model.config,
        model_id=model_id(session, job),
    )


def model_id(session: Session, job: Job) -> str:
    """Return the id that the result of a job will have."""
    return fine_tuned_model_id(job, jobs.project_name(session, job.project_id))
