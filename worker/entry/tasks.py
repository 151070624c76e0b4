from celery import shared_task

from app.notifier.broker import POLL
from worker.entry import process


@shared_task(name=POLL)  # type: ignore[untyped-decorator]
def poll(kind: str, id_: str) -> None:
    """Have a poller look for work of this kind now. The id is for the log: the oldest comes first.

    The task does no work itself: messages would pile up behind it.
    """
    process.wake_poller(kind)
