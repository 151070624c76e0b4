"""Jobs with everything that is shown beside their own row, gathered for a whole page at once."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.catalogue.naming import fine_tuned_model_id
from app.jobs import queue, repository
from app.jobs.checkpoints import best_of
from app.jobs.schemas import AttemptObject, CheckpointObject, JobObject
from app.models import Checkpoint, Job
from app.settings import Settings


def show(session: Session, settings: Settings, jobs: Sequence[Job]) -> list[JobObject]:
    ids = [job.id for job in jobs]
    attempts, checkpoints = repository.attempts(session, ids), repository.checkpoints_of(session, ids)
    line = queue.look(session, settings) if any(queue.waits(job) for job in jobs) else None
    return [
        JobObject.of(job, queue=line.place(job.id) if line and queue.waits(job) else None).model_copy(
            update={
                "attempts": [AttemptObject.of(attempt) for attempt in attempts[job.id]],
                "best_checkpoint": _best(session, job, checkpoints[job.id]),
            }
        )
        for job in jobs
    ]


def show_one(session: Session, settings: Settings, job: Job) -> JobObject:
    (shown,) = show(session, settings, [job])
    return shown


def _best(session: Session, job: Job, checkpoints: Sequence[Checkpoint]) -> CheckpointObject | None:
    best = best_of(checkpoints)
    if best is None:
        return None
    return CheckpointObject.of(best, fine_tuned_model_id(job, repository.project_name(session, job.project_id)))
