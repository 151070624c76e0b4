"""How pages say things."""

from datetime import UTC, datetime

from app.models import Desired, Job, JobStatus

WISHES = {Desired.CANCEL: "cancelling", Desired.PAUSE: "pausing"}


def state(job: Job) -> str:
    """The status, or what a running job is about to become."""
    if job.status == JobStatus.RUNNING and job.desired in WISHES:
        return WISHES[Desired(job.desired)]
    return job.status.replace("_", " ")


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
