"""Who could execute jobs. Free of the web framework: workers show themselves with it."""

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.database import now_plus
from app.models import Worker
from app.settings import Settings

MISSED_LOOKS = 3  # after so many polls without a look an idle worker is taken for gone
FORGOTTEN_SECONDS = 24 * 3600.0


def seen(session: Session, worker_id: str, device: str, num_devices: int) -> None:
    again = update(Worker).where(Worker.id == worker_id).values(seen_at=now_plus()).returning(Worker.id)
    if session.scalar(again, execution_options={"synchronize_session": False}) is None:
        session.execute(delete(Worker).where(Worker.seen_at < now_plus(-FORGOTTEN_SECONDS)))
        session.add(Worker(id=worker_id, device=device, num_devices=num_devices, seen_at=now_plus()))
        session.flush()


def lately_seen(session: Session, settings: Settings) -> set[str]:
    """Idle ones; whoever has a job shows itself by its lease."""
    since = now_plus(-MISSED_LOOKS * settings.poll.total_seconds())
    return set(session.scalars(select(Worker.id).where(Worker.seen_at > since)))
