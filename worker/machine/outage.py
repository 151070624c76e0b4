"""Waiting for an unavailable storage: a worker that met it begins nothing before it answers."""

import threading
import time
from collections.abc import Callable

import structlog
from obstore.exceptions import BaseError

from app.base.storage import StorageUnavailable

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
CHECK_INTERVAL_SECONDS = 0.5  # Interval of the checks whether waiting still makes sense.
log = structlog.get_logger()


class StorageOutage:
    def __init__(self, probe: Callable[[], None], shutting_down: threading.Event) -> None:
        self._probe = probe
        self._shutting_down = shutting_down
        self.is_on = False

    def begin(self, error: StorageUnavailable) -> None:
        """Remember that the storage is unavailable."""
        log.warning("storage unavailable", error=str(error))
        self.is_on = True

    def wait_for_end(self, check: Callable[[], None] = lambda: None) -> bool:
        """Return True once the storage answers, False when this worker ends; `check` may raise to
        give up.
        """
        pause = FIRST_PAUSE_SECONDS
        while self.is_on:
            if self._shutting_down.is_set():
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
            self._probe()
        except StorageUnavailable as error:
            self.begin(error)
            return False
        except (OSError, BaseError) as error:
            log.warning("the storage takes no writes", error=str(error))
        return True

    def _sleep(self, seconds: float, check: Callable[[], None]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._shutting_down.wait(min(left, CHECK_INTERVAL_SECONDS)):
                return
            check()
