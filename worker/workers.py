"""What a worker process does when it is told to look, and now and then by itself: the message is a hint, the row is the work."""

import random
import threading
from collections import Counter
from collections.abc import Callable

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.files import checking
from app.models import File, FileStatus
from app.notifier.broker import Notifier
from app.settings import Settings
from app.storage import Storage, StorageAway
from worker import pulse
from worker.attempt.supervisor import Supervisor
from worker.outage import StorageOutage

MISSING_TRIES = 3  # before bytes that are not in the storage count as missing: a folder of several machines may show them late
CHANCE = random.Random()  # not the one generator that everything in the process shares, and tests seed

log = structlog.get_logger()


class GpuWorker:
    """One lock for the process: its device never executes two jobs. Whoever waits for it looks again afterwards."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()

    def poll(self) -> None:
        with self._lock:
            try:
                while not self._supervisor.drain.is_set() and self._supervisor.execute_next():
                    pass
            except SQLAlchemyError as error:
                log.warning("poll for jobs failed", error=str(error))


class CpuWorker:
    """A file in status `uploaded` is its own outbox."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, notifier: Notifier, drain: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._notifier = notifier
        self._drain = drain
        self._outage = StorageOutage(storage, drain)
        self._misses: Counter[str] = Counter()
        self._lock = threading.Lock()

    def poll(self) -> None:
        waiting = select(File.id).where(File.status == FileStatus.UPLOADED, File.deleted_at.is_(None)).order_by(File.id)
        try:
            with self._database.read() as session:
                ids = session.scalars(waiting).all()
        except SQLAlchemyError as error:
            log.warning("poll for files failed", error=str(error))
            return
        for file_id in ids:
            if not self._drain.is_set():
                self.check(file_id)

    def check(self, file_id: str) -> None:
        with self._lock:
            if not self._outage.wait_for_end():
                return
            try:
                for job_id in checking.check(self._database, self._storage, file_id, self._settings):
                    self._notifier.notify_job(job_id)
            except StorageAway as error:
                self._outage.begin(error)
            except FileNotFoundError:
                self._miss(file_id)
            except Exception:  # the edge of the process: one bad file must not keep the others waiting
                log.exception("file not checked", file_id=file_id)

    def _miss(self, file_id: str) -> None:
        """Judge a file whose bytes the storage has not for the third time."""
        if not self._outage.answers():  # where the whole bucket is gone, nothing is known of one file
            return
        self._misses[file_id] += 1
        log.error("bytes are missing", file_id=file_id, tries=self._misses[file_id])
        if self._misses[file_id] >= MISSING_TRIES:
            del self._misses[file_id]
            checking.judge_missing(self._database, file_id, self._settings)


class Poller:
    """Looks every `seconds`, more or less, so that neither a lost message nor a dead Redis leaves work undone."""

    def __init__(self, poll: Callable[[], None], seconds: float, drain: threading.Event) -> None:
        self._poll = poll
        self._seconds = seconds
        self._drain = drain
        self._thread = threading.Thread(target=self._work, name="poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while not self._drain.wait(self._seconds * CHANCE.uniform(0.8, 1.2)):
            try:
                self._poll()
            except Exception:  # the edge of the process: whatever it was, somebody has to look again
                log.exception("poll failed")
            pulse.beat()
