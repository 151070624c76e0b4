"""Jobs and their parts as users name them."""

from sqlalchemy.orm import Session

from app.base.errors import InvalidRequest, NotFound
from app.catalogue.naming import fine_tuned_model_id
from app.http.pagination import check_cursor
from app.jobs import checkpoint_repository, repository
from app.models import Attempt, Checkpoint, Job


def get(session: Session, project_id: str, job_id: str, *, lock: bool = False) -> Job:
    """Return the job; with `lock` its status cannot change before the transaction ends."""
    job = repository.find(session, project_id, job_id, lock=lock)
    if job is None:
        raise NotFound(
            f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found"
        )
    return job


def model_id(session: Session, job: Job) -> str:
    """Return the id that the job's model has, or will have."""
    return fine_tuned_model_id(job, repository.project_name(session, job.project_id))


def checkpoints(session: Session, job: Job, *, after: str | None, limit: int) -> list[Checkpoint]:
    check_cursor(after, "ftckpt_", "a checkpoint")
    return checkpoint_repository.newest_first(session, job.id, after=after, limit=limit)


def attempt_with_log(session: Session, job: Job, number: int | None) -> Attempt | None:
    """Return the attempt of this number, or the newest one that has a log."""
    attempts = repository.attempts(session, [job.id])[job.id]
    if number is None:
        return next((attempt for attempt in reversed(attempts) if attempt.log_bytes), None)
    attempt = next((attempt for attempt in attempts if attempt.number == number), None)
    if attempt is None:
        raise NotFound(f"The job has no attempt {number}.", param="attempt")
    return attempt


def unknown_event(param: str, value: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: '{value}' is not an event of this job.", param=param, code="invalid_cursor"
    )
