import threading
from abc import ABC, abstractmethod

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()


class PollLoop(ABC):
    """One piece of work at a time in this process; whoever rings meanwhile need not wait, the one who works looks again."""

    def __init__(self, drain: threading.Event) -> None:
        self._drain = drain
        self._lock = threading.Lock()

    def poll(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            while not self._drain.is_set() and self._do_next():
                pass
        except SQLAlchemyError as error:
            log.warning("poll failed", kind=type(self).__name__, error=str(error))
        finally:
            self._lock.release()

    @abstractmethod
    def _do_next(self) -> bool:
        """The oldest piece; False when there is none."""
