"""Jobs with everything that is shown beside their own row, gathered for a whole page at once."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.catalogue.naming import fine_tuned_model_id
from app.jobs import queue_forecast, repository
from app.jobs.checkpoints import best_of
from app.jobs.schemas import AttemptObject, CheckpointObject, JobObject
from app.models import Checkpoint, Job
from app.settings import Settings


def show(session: Session, settings: Settings, jobs: Sequence[Job]) -> list[JobObject]:
    begun = [job.id for job in jobs if job.attempt]
    attempts = repository.attempts(session, begun) if begun else {}
    checkpoints = repository.checkpoints_of(session, begun) if begun else {}
    names = {id_: repository.project_name(session, id_) for id_ in {job.project_id for job in jobs if checkpoints.get(job.id)}}
    line = queue_forecast.look(session, settings) if any(queue_forecast.waits(job) for job in jobs) else None
    return [
        JobObject.of(job, queue=line.place(job.id) if line and queue_forecast.waits(job) else None).model_copy(
            update={
                "attempts": [AttemptObject.of(attempt) for attempt in attempts.get(job.id, [])],
                "best_checkpoint": _best(job, names, checkpoints.get(job.id, [])),
            }
        )
        for job in jobs
    ]


def show_one(session: Session, settings: Settings, job: Job) -> JobObject:
    (shown,) = show(session, settings, [job])
    return shown


def _best(job: Job, names: Mapping[str, str], checkpoints: Sequence[Checkpoint]) -> CheckpointObject | None:
    best = best_of(checkpoints)
    return None if best is None else CheckpointObject.of(best, fine_tuned_model_id(job, names[job.project_id]))
