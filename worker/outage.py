"""Waiting for a storage that is away: whoever has met it begins nothing before it answers again."""

import threading
import time
from collections.abc import Callable

import structlog
from obstore.exceptions import BaseError

from app.storage import Storage, StorageAway

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
TICK_SECONDS = 0.5  # how often the one who waits is asked whether it still should
log = structlog.get_logger()


class StorageOutage:
    def __init__(self, storage: Storage, drain: threading.Event) -> None:
        self._storage = storage
        self._drain = drain
        self.is_on = False

    def begin(self, error: StorageAway) -> None:
        """Remember that the storage is away."""
        log.warning("the storage is away", error=str(error))
        self.is_on = True

    def wait_for_end(self, check: Callable[[], None] = lambda: None) -> bool:
        """Return True once the storage answers, False when this worker ends; `check` may raise to give up."""
        pause = FIRST_PAUSE_SECONDS
        while self.is_on:
            if self._drain.is_set():
                return False
            check()
            if self.answers():
                log.info("the storage answers again")
                self.is_on = False
            else:
                self._sleep(pause, check)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
        return True

    def answers(self) -> bool:
        """Ask the storage; one that says that it is full does answer."""
        try:
            self._storage.probe()
        except StorageAway as error:
            self.begin(error)
            return False
        except (OSError, BaseError) as error:
            log.warning("the storage takes no writes", error=str(error))
        return True

    def _sleep(self, seconds: float, check: Callable[[], None]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._drain.wait(min(left, TICK_SECONDS)):
            check()
