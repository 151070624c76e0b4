"""Repairs what a lost message or a dead worker left: a small loop in every API process, harmless however many run."""

import threading
import time
from collections.abc import Callable
from functools import partial

import structlog
from obstore.exceptions import BaseError as StorageError
from sqlalchemy import or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database, now_plus
from app.files import service as files
from app.garbage import collector, orphans
from app.installation import Guard, Refused
from app.jobs import claims
from app.models import File, FileStatus, Job
from app.notifier.broker import Notifier
from app.settings import Settings
from app.storage import Storage
from app.trials import service as trials
from app.uploads import service as uploads
from falqon_core.fault_points import fault

TICK_SECONDS = 5.0
COLLECT_SECONDS = 3600.0
RING_AGAIN_SECONDS = 30.0
STOP_SECONDS = 3.0  # a broker that hangs must not hold up the end of the API
FILE_PATIENCE_SECONDS = 10.0
# Who hears one ring works until nothing is left, so a long queue needs no more of them; busy workers leave them lying.
RINGS_PER_TICK = 8
log = structlog.get_logger()


class Reconciler:
    def __init__(self, database: Database, storage: Storage, notifier: Notifier, settings: Settings) -> None:
        self._database = database
        self._storage = storage
        self._notifier = notifier
        self._settings = settings
        self._files_rung_at: dict[str, float] = {}
        self._guard = Guard(database, storage)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in self._loops.items()]

    @property
    def _loops(self) -> dict[str, Callable[[], None]]:
        """Looking through a large storage takes long, and so does a silent one: jobs of silent workers must not wait for it."""
        repeat = self._repeat
        return {"reconciler": partial(repeat, self.tick), "sweeper": partial(repeat, self.sweep), "garbage": self._collect}

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def tick(self) -> None:
        """Raises `SQLAlchemyError` when the database is away."""
        self._rescue()
        for job_id in self._unheard_jobs():
            self._notifier.notify_job(job_id)
        for file_id in self._unheard_files():
            self._notifier.notify_file(file_id)
        uploads.expire(self._database)
        files.remove_expired(self._database)

    def sweep(self) -> None:
        """Raises `SQLAlchemyError` when the database is away."""
        try:
            if self._guard.allows():
                orphans.sweep(self._database, self._storage)
        except (OSError, StorageError) as error:  # the rows stay, and the next sweep tries again
            log.warning("reconciler: the storage is away", error=str(error))

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._ended.wait(TICK_SECONDS):
            try:
                work()
            except SQLAlchemyError as error:
                log.warning("reconciler: the database is away", error=str(error))
            except Exception:  # the edge of a thread: whatever it was, the next tick has to come
                log.exception("reconciler: a tick failed")

    def _collect(self) -> None:
        while not self._ended.is_set():
            try:
                collector.forget_deliveries(self._database)
                trials.forget_old(self._database)
                collector.collect(self._database, self._storage)
            except (SQLAlchemyError, OSError, StorageError) as error:
                log.warning("reconciler: garbage not collected", error=str(error))
            except Refused as error:
                log.error("reconciler: garbage not collected", reason=str(error))
            except Exception:  # as above
                log.exception("reconciler: garbage not collected")
            self._ended.wait(COLLECT_SECONDS)

    def _rescue(self) -> None:
        with self._database.transaction() as session:
            if rescued := claims.rescue(
                session,
                max_infra_failures=self._settings.max_infra_failures,
                retry_seconds=self._settings.retry_delay.total_seconds(),
            ):
                fault("before_rescue_commit")
        for job_id in rescued:
            log.warning("rescued from a silent worker", job_id=job_id)

    def _unheard_jobs(self) -> list[str]:
        """Of the oldest few; their `rung_at` is set first, so that of many reconcilers one rings."""
        waiting = claims.is_due(Job)
        unheard = or_(Job.rung_at.is_(None), Job.rung_at < now_plus(-RING_AGAIN_SECONDS))
        with self._database.read() as session:
            oldest = session.scalars(select(Job.id).where(*waiting).order_by(Job.id).limit(RINGS_PER_TICK)).all()
        if not oldest:
            return []
        with self._database.transaction() as session:
            ring = update(Job).where(Job.id.in_(oldest), *waiting, unheard).values(rung_at=now_plus()).returning(Job.id)
            return list(session.scalars(ring, execution_options={"synchronize_session": False}))

    def _unheard_files(self) -> list[str]:
        waiting = (File.status == FileStatus.UPLOADED, File.deleted_at.is_(None), File.created_at < now_plus(-FILE_PATIENCE_SECONDS))
        with self._database.read() as session:
            ids = session.scalars(select(File.id).where(*waiting).order_by(File.id).limit(RINGS_PER_TICK)).all()
        now = time.monotonic()
        due = [file_id for file_id in ids if now - self._files_rung_at.get(file_id, -RING_AGAIN_SECONDS) >= RING_AGAIN_SECONDS]
        self._files_rung_at = {file_id: self._files_rung_at.get(file_id, now) for file_id in ids} | dict.fromkeys(due, now)
        return due
