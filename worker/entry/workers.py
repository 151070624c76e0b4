"""Polls of a worker process, after each notification and now and then by itself: a message is a
hint, the row is the work.
"""

import random
import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.attempt.supervisor import Supervisor
from worker.context import WorkerContext
from worker.entry.calibration import calibrate_worker
from worker.entry.doctor import diagnose_worker
from worker.machine import pulse

# A generator of its own: tests seed the one that everything in the process shares.
JITTER = random.Random()

log = structlog.get_logger()


class GpuWorker:
    """One lock for the process: its device never executes two jobs. A thread that waits for it
    polls again afterwards.
    """

    def __init__(self, context: WorkerContext, supervisor: Supervisor) -> None:
        self._context = context
        self._supervisor = supervisor
        self._is_diagnosed = False
        self._is_calibrated = False
        self._lock = threading.Lock()

    def poll(self) -> None:
        with self._lock:
            try:
                self._diagnose_once()
                while not self._context.shutting_down.is_set() and self._supervisor.execute_next():
                    pass
                self._calibrate_once()
            except SQLAlchemyError as error:
                log.warning("poll for jobs failed", error=str(error))

    def _diagnose_once(self) -> None:
        """Try the card before the first job has it."""
        if not self._is_diagnosed:
            self._is_diagnosed = True
            diagnose_worker(self._context, self._supervisor.machine)

    def _calibrate_once(self) -> None:
        """Measure a short training while no job waits."""
        if not self._is_calibrated:
            self._is_calibrated = calibrate_worker(self._context, self._supervisor.machine)


class Poller:
    """Polls at its start, whenever it is woken, and every `seconds`, more or less, so that neither
    a lost message nor a dead Redis leaves work undone.
    """

    def __init__(
        self, poll: Callable[[], None], seconds: float, shutting_down: threading.Event
    ) -> None:
        self._poll = poll
        self._seconds = seconds
        self._shutting_down = shutting_down
        self._woken = threading.Event()
        self._woken.set()
        self._thread = threading.Thread(target=self._work, name="poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have it poll now, or once more where it works."""
        self._woken.set()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while not self._shutting_down.is_set():
            self._woken.wait(self._seconds * JITTER.uniform(0.8, 1.2))
            self._woken.clear()
            if self._shutting_down.is_set():
                return
            try:
                self._poll()
            except Exception:  # Top-level handler: after any error the next poll has to come.
                log.exception("poll failed")
            pulse.beat()
