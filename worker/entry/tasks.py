from celery import shared_task

from app.notifier.broker import POLL
from worker.entry import process


@shared_task(name=POLL)  # type: ignore[untyped-decorator]
def poll(kind: str, id_: str) -> None:
    """Work until nothing of this kind is left. The id is for the log: the oldest comes first."""
    process.poll_for_message(kind)
