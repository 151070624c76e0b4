"""A job that another scheduler has chosen for a worker: the reason why it does not begin there."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs.next_job import DeviceOffer, is_due, room_of
from app.models import Job, JobStatus, Project
from app.models.falqon_options import ANY_DEVICE


class Obstacle(NamedTuple):
    reason: str
    may_pass: bool  # Waiting may help.


def find_obstacle(session: Session, offer: DeviceOffer, job_id: str) -> Obstacle | None:
    """Return what keeps this machine from the job; None if it may take it as soon as cards are
    free.
    """
    found = session.execute(
        select(Job, is_due(Job), room_of(Job), Project.max_running_gpus)
        .join(Project, Project.id == Job.project_id)
        .where(Job.id == job_id)
    ).one_or_none()
    if found is None:
        return Obstacle("no job has this id", may_pass=False)
    job, is_due_now, room, ceiling = found
    if job.status == JobStatus.VALIDATING_FILES:
        return Obstacle("its files are still being checked", may_pass=True)
    if not job.is_waiting:
        return Obstacle(_describe(job), may_pass=False)
    if job.num_gpus > offer.max_gpus:
        reason = f"it needs {job.num_gpus} GPUs, and this machine offers {offer.max_gpus}"
        return Obstacle(reason, may_pass=False)
    if job.gpu not in (ANY_DEVICE, offer.device):
        reason = f"it waits for the device '{job.gpu}', and this machine has '{offer.device}'"
        return Obstacle(reason, may_pass=False)
    if not is_due_now:
        return Obstacle("it is retried later, after a lost attempt", may_pass=True)
    if job.num_gpus > room:
        reason = f"the running jobs of its project may hold {ceiling} GPUs (max_running_gpus)"
        return Obstacle(f"{reason}, {max(0, room)} are left and it needs {job.num_gpus}", True)
    return None


def _describe(job: Job) -> str:
    if job.status == JobStatus.RUNNING:
        return "another worker has it"
    if job.status == JobStatus.QUEUED:
        return f"its user asks to {job.desired} it"
    return f"it is {job.status}"
