"""Repair of the consequences of a lost message or a dead worker: a small loop in every API process,
harmless in any number.
"""

import threading
from collections.abc import Callable
from functools import partial

import structlog
from obstore.exceptions import BaseError as StorageError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement

from app.auth import audit
from app.base import counters
from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.base.storage import Storage
from app.files import removal
from app.garbage import collector, events, orphans
from app.garbage.installation import CleaningGuard, CleaningRefused
from app.jobs import claims, next_job, preemption
from app.models import Job
from app.models.operation import Operation
from app.notifier import repository as notifications
from app.notifier.broker import Notifier
from app.operations import claims as operations
from app.retention import cleaner as retention
from app.stored_answers import service as stored_answers
from app.switches import watch as switches
from app.uploads import service as uploads
from app.usage import sums
from falqon_core.fault_points import fault

TICK_SECONDS = 5.0
COLLECT_SECONDS = 3600.0
NOTIFY_AGAIN_SECONDS = 30.0
STOP_SECONDS = 3.0  # an unresponsive broker must not delay the end of the API
OPERATION_GRACE_SECONDS = 10.0  # grace period of an operation whose request has notified workers
# Notified workers work until nothing is left, so a long queue needs no more notifications.
NOTIFICATIONS_PER_TICK = 8
log = structlog.get_logger()


class Reconciler:
    def __init__(
        self, database: Database, storage: Storage, notifier: Notifier, settings: Settings
    ) -> None:
        self._database = database
        self._storage = storage
        self._notifier = notifier
        self._settings = settings
        self._guard = CleaningGuard(database, storage)
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in self._loops.items()
        ]

    @property
    def _loops(self) -> dict[str, Callable[[], None]]:
        """Return the loops that run apart: a search through a large storage takes long, and so does
        a silent one, and jobs of silent workers must not wait for it.
        """
        repeat = self._repeat
        return {
            "reconciler": partial(repeat, self.tick),
            "sweeper": partial(repeat, self.sweep),
            "garbage": self._collect,
        }

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def tick(self) -> None:
        """Do the due work. Raises `SQLAlchemyError` when the database is unavailable."""
        self._rescue()
        self._notify_again()
        uploads.expire(self._database)
        removal.remove_expired(self._database)
        audit.remove_old(self._database)
        switches.watch(self._database)
        preemption.preempt(self._database, self._settings)
        counters.RECONCILED_AT.set_to_current_time()

    def sweep(self) -> None:
        """Collect garbage. Raises `SQLAlchemyError` when the database is unavailable."""
        sums.sum_days(self._database)
        events.remove_old(self._database, self._settings.events_kept)
        stored_answers.remove_old(self._database)
        try:
            if self._guard.allows():
                orphans.sweep(self._database, self._storage)
        except (OSError, StorageError) as error:  # the rows stay, and the next sweep retries
            log.warning("reconciler: the storage is unavailable", error=str(error))

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._ended.wait(TICK_SECONDS):
            try:
                work()
            except SQLAlchemyError as error:
                log.warning("reconciler: the database is unavailable", error=str(error))
            # Top-level handler of a thread: the next tick has to come after any error.
            except Exception:
                log.exception("reconciler: a tick failed")

    def _collect(self) -> None:
        while not self._ended.is_set():
            self._clean()
            try:
                collector.forget_deliveries(self._database)
                collector.collect_due(self._database, self._storage, self._ended.wait)
            except (SQLAlchemyError, OSError, StorageError) as error:
                log.warning("reconciler: garbage not collected", error=str(error))
            except CleaningRefused as error:
                log.error("reconciler: garbage not collected", reason=str(error))
            except Exception:  # top-level handler, as above
                log.exception("reconciler: garbage not collected")
            self._ended.wait(COLLECT_SECONDS)

    def _clean(self) -> None:
        try:
            retention.clean(self._database, self._settings)
        except SQLAlchemyError as error:
            log.warning("reconciler: the database is unavailable", error=str(error))
        except Exception:  # top-level handler, as above
            log.exception("reconciler: checkpoints and models are not removed")

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

    def _notify_again(self) -> None:
        """Notify workers again of rows that none has claimed."""
        self._notify_waiting(Job, next_job.is_due(Job))
        for kind in Operation.__subclasses__():
            is_old = kind.created_at < now_plus(-OPERATION_GRACE_SECONDS)
            self._notify_waiting(kind, *operations.is_waiting(kind), is_old)

    def _notify_waiting(
        self, kind: type[Job] | type[Operation], *waiting: ColumnElement[bool]
    ) -> None:
        """Notify of the oldest few; they are marked first, so that one of many reconcilers does
        it.
        """
        with self._database.read() as session:
            ids = notifications.oldest(session, kind, waiting, NOTIFICATIONS_PER_TICK)
        if not ids:
            return
        with self._database.transaction() as session:
            due = notifications.mark(session, kind, ids, waiting, NOTIFY_AGAIN_SECONDS)
        for id_ in due:
            self._notifier.notify(kind, id_)
