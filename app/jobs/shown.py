"""Jobs with everything that is shown beside their own row, gathered for a whole page at once."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.catalogue.naming import fine_tuned_model_id
from app.jobs import queue, repository
from app.jobs.checkpoints import best_of
from app.jobs.schemas import AttemptObject, CheckpointObject, JobObject, QueueObject
from app.models import Checkpoint, Job


def show(session: Session, jobs: Sequence[Job]) -> list[JobObject]:
    ids = [job.id for job in jobs]
    attempts, checkpoints = repository.attempts(session, ids), repository.checkpoints_of(session, ids)
    places = queue.places(session, jobs)
    return [
        JobObject.of(job).model_copy(
            update={
                "attempts": [AttemptObject.of(attempt) for attempt in attempts[job.id]],
                "best_checkpoint": _best(session, job, checkpoints[job.id]),
                "queue": QueueObject(**places[job.id]._asdict()) if job.id in places else None,
            }
        )
        for job in jobs
    ]


def show_one(session: Session, job: Job) -> JobObject:
    (shown,) = show(session, [job])
    return shown


def _best(session: Session, job: Job, checkpoints: Sequence[Checkpoint]) -> CheckpointObject | None:
    best = best_of(checkpoints)
    if best is None:
        return None
    return CheckpointObject.of(best, fine_tuned_model_id(job, repository.project_name(session, job.project_id)))
