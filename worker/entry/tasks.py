from celery import shared_task

from app.notifier.broker import POLL
from worker.entry import process


@shared_task(name=POLL)  # type: ignore[untyped-decorator]
def poll(kind: str, id_: str) -> None:
    """Have the pollers of this kind poll now. The id is for the log: the oldest row comes first.

    The task does no work itself: the next messages would wait for its end.
    """
    process.wake_pollers(kind)
