import threading
from abc import ABC, abstractmethod

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()


class PollLoop(ABC):
    """One piece of work at a time in this process; who polls meanwhile need not wait, as the one
    who works polls again.
    """

    def __init__(self, shutting_down: threading.Event) -> None:
        self._shutting_down = shutting_down
        self._lock = threading.Lock()

    def poll(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            while not self._shutting_down.is_set() and self._do_next():
                pass
        except SQLAlchemyError as error:
            log.warning("poll failed", kind=type(self).__name__, error=str(error))
        finally:
            self._lock.release()

    @abstractmethod
    def _do_next(self) -> bool:
        """Do the oldest piece of work; return False when there is none."""
