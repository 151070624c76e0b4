import threading
from abc import ABC, abstractmethod

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()


class PollLoop(ABC):
    """So many pieces of work at a time in this process, each in a thread that polls; who polls
    beyond that need not wait, as those that work poll again.
    """

    def __init__(self, shutting_down: threading.Event, num_at_once: int = 1) -> None:
        self._shutting_down = shutting_down
        self._slots = threading.Semaphore(num_at_once)

    def poll(self) -> None:
        if not self._slots.acquire(blocking=False):
            return
        try:
            while not self._shutting_down.is_set() and self._do_next():
                pass
        except SQLAlchemyError as error:
            log.warning("poll failed", kind=type(self).__name__, error=str(error))
        finally:
            self._slots.release()

    @abstractmethod
    def _do_next(self) -> bool:
        """Do the next piece of work; return False when there is none."""
