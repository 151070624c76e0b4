"""Who could execute jobs. Free of the web framework: workers show themselves with it."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models import Job, JobStatus, Worker
from app.settings import Settings

MISSED_LOOKS = 3  # after so many polls without a look an idle worker is taken for gone
FORGOTTEN_SECONDS = 24 * 3600.0


class Live(NamedTuple):
    worker: Worker
    job: Job | None
    seconds_since_seen: float


def seen(session: Session, worker_id: str, device: str, num_devices: int) -> None:
    again = update(Worker).where(Worker.id == worker_id).values(seen_at=now_plus()).returning(Worker.id)
    if session.scalar(again, execution_options={"synchronize_session": False}) is None:
        session.execute(delete(Worker).where(Worker.seen_at < now_plus(-FORGOTTEN_SECONDS)))
        session.add(Worker(id=worker_id, device=device, num_devices=num_devices, seen_at=now_plus()))
        session.flush()


def lately_seen(session: Session, settings: Settings) -> set[str]:
    """Idle ones; whoever has a job shows itself by its lease."""
    return set(session.scalars(select(Worker.id).where(Worker.seen_at > _since(settings))))


def live(session: Session, settings: Settings) -> list[Live]:
    """Newest first, each with the job it has."""
    held = (Job.lease_owner == Worker.id) & (Job.status == JobStatus.RUNNING) & (Job.lease_expires_at > now_plus())
    statement = select(Worker, Job, now_plus()).outerjoin(Job, held).where(Job.id.is_not(None) | (Worker.seen_at > _since(settings)))
    return [_live(*row, settings) for row in session.execute(statement.order_by(Worker.id.desc()))]


def _live(worker: Worker, job: Job | None, now: datetime, settings: Settings) -> Live:
    renewed = job.lease_expires_at - settings.lease if job and job.lease_expires_at else worker.seen_at
    return Live(worker, job, max(0.0, (now - max(renewed, worker.seen_at)).total_seconds()))


def _since(settings: Settings) -> now_plus:
    return now_plus(-MISSED_LOOKS * settings.poll.total_seconds())
