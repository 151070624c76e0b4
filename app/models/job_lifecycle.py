"""Transitions of a job's status. Pure: no database, no clock."""

from app.models.job import JobStatus

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # Data checked | data faulty | cancelled by the user.
    JobStatus.VALIDATING_FILES: frozenset(
        {JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED}
    ),
    # Claimed by a worker | withdrawn before that.
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    # Requeued (drain, lost worker) | stopped on request | ended.
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.QUEUED,
            JobStatus.PAUSED,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    # Resumed | abandoned.
    JobStatus.PAUSED: frozenset(
        {JobStatus.QUEUED, JobStatus.VALIDATING_FILES, JobStatus.CANCELLED}
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)
LIVE = frozenset(TRANSITIONS) - TERMINAL


def sources(target: JobStatus) -> list[JobStatus]:
    """Return the statuses a job may be in to become `target`; what a guarded UPDATE names in its
    WHERE.
    """
    return [status for status, following in TRANSITIONS.items() if target in following]
