"""Presentation of jobs in the API, gathered for a whole page at once."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.base.settings import Settings
from app.catalogue.naming import fine_tuned_model_id
from app.jobs import checkpoint_repository, queue_forecast, repository
from app.jobs.base_model import began_from_by_job
from app.jobs.checkpoints import best_of
from app.jobs.schemas import AttemptObject, CheckpointObject, JobObject
from app.models import Checkpoint, Job


def to_objects(session: Session, settings: Settings, jobs: Sequence[Job]) -> list[JobObject]:
    begun = [job.id for job in jobs if job.attempt]
    attempts = repository.attempts(session, begun) if begun else {}
    checkpoints = checkpoint_repository.of_jobs(session, begun) if begun else {}
    names = {
        id_: repository.project_name(session, id_)
        for id_ in {job.project_id for job in jobs if checkpoints.get(job.id)}
    }
    models = began_from_by_job(session, jobs)
    queue = None
    if waiting := [job.created_at for job in jobs if job.is_waiting]:
        queue = queue_forecast.read_queue(session, settings, max(waiting))
    objects = []
    for job in jobs:
        position = None
        if queue and job.is_waiting:
            position = queue.position_of(job.id, job.num_gpus, job.gpu)
        beside = {
            "attempts": [AttemptObject.of(attempt) for attempt in attempts.get(job.id, [])],
            "best_checkpoint": _best_checkpoint(job, names, checkpoints.get(job.id, [])),
        }
        objects.append(JobObject.of(job, models[job.id], queue=position).model_copy(update=beside))
    return objects


def to_object(session: Session, settings: Settings, job: Job) -> JobObject:
    return to_objects(session, settings, [job])[0]


def _best_checkpoint(
    job: Job, names: Mapping[str, str], checkpoints: Sequence[Checkpoint]
) -> CheckpointObject | None:
    best = best_of(checkpoints)
    if best is None:
        return None
    return CheckpointObject.of(best, fine_tuned_model_id(job, names[job.project_id]))
