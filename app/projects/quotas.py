"""Quotas and usage of a project. Free of the web framework.

Called in the transaction that writes the new rows: the project's row is locked, so of two requests
at once the second counts the rows of the first. It is the last row that any transaction locks.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy.orm import Session

from app.base.errors import QuotaExceeded
from app.models import Project
from app.projects import repository

WARNING_SHARE = 0.8  # share of a limit at which a warning is sent


@dataclass(frozen=True, slots=True)
class QuotaAlert:
    """Alert about the device hours that a project has in a month."""

    project_id: str
    level: Literal["warning", "exhausted"]


def admit_job(session: Session, project_id: str) -> None:
    project = _lock_limited(session, project_id)
    if project is None:
        return
    _check_live_jobs(session, project)
    _check_device_hours(session, project)
    _check_storage(session, project, more=0)


def admit_execution(session: Session, project_id: str) -> None:
    """Admit an execution of an existing job."""
    project = _lock_limited(session, project_id)
    if project is not None:
        _check_device_hours(session, project)


def admit_bytes(session: Session, project_id: str, num_bytes: int, *, freed: int = 0) -> None:
    """Admit bytes that take the place of those that are freed."""
    project = _lock_limited(session, project_id)
    if project is not None:
        _check_storage(session, project, more=num_bytes, freed=freed)


def book_attempt(
    session: Session, job_id: str, started: datetime, ended: datetime, num_devices: int
) -> QuotaAlert | None:
    """Add an attempt to the month's device hours of its project; return the alert that is due. It
    is sent once a month: the booked hours only grow.
    """
    booking = repository.book_attempt(session, job_id, started, ended, num_devices)
    if booking is None or booking.project.max_device_hours is None:
        return None
    limit = booking.project.max_device_hours * 3600
    if booking.before < limit <= booking.after:
        return QuotaAlert(booking.project.id, "exhausted")
    if booking.before < WARNING_SHARE * limit <= booking.after:
        return QuotaAlert(booking.project.id, "warning")
    return None


def _lock_limited(session: Session, project_id: str) -> Project | None:
    """Return the locked project; None for one without any quota, which then needs no lock."""
    project = session.get_one(Project, project_id)
    if (
        project.max_live_jobs is None
        and project.max_storage_bytes is None
        and project.max_device_hours is None
    ):
        return None
    return repository.lock(session, project_id)


def _check_live_jobs(session: Session, project: Project) -> None:
    limit = project.max_live_jobs
    if limit is None:
        return
    used = repository.live_jobs(session, project.id)
    if used >= limit:
        raise QuotaExceeded(
            f"max_live_jobs: {used} jobs of this project have not ended, and its quota is {limit}. "
            "Wait until one ends, cancel one, or ask the administrator for more.",
            param="max_live_jobs",
        )


def _check_device_hours(session: Session, project: Project) -> None:
    limit = project.max_device_hours
    if limit is None:
        return
    used = repository.device_seconds(session, project) / 3600
    if used >= limit:
        raise QuotaExceeded(
            f"max_device_hours: this project has used {used:.2f} device hours "
            f"in {repository.current_month(session)} (UTC), and its quota is {limit:g} a month. "
            "Wait for the next month, or ask the administrator for more.",
            param="max_device_hours",
        )


def _check_storage(session: Session, project: Project, *, more: int, freed: int = 0) -> None:
    """Refuse every write to a full project, even an empty one: a job will need space."""
    limit = project.max_storage_bytes
    if limit is None:
        return
    used = repository.storage_bytes(session, project.id) - freed
    if used + max(1, more) > limit:
        addition = f", {more} more are requested," if more else ""
        raise QuotaExceeded(
            "max_storage_bytes: files, uploads, models and checkpoints of this project "
            f"hold {used} bytes{addition} and its quota is {limit}. "
            "Delete some, or ask the administrator for more.",
            param="max_storage_bytes",
        )
