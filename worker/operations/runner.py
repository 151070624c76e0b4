"""Fulfilling wishes of one kind, one after the other."""

import threading
import time
from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

import structlog
from obstore.exceptions import BaseError

from app.database import Database
from app.ids import new_id
from app.models.wish import Wish
from app.operations import claims
from app.settings import Settings
from app.storage import Storage, StorageAway
from falqon_core.contract.errors import is_disk_full
from worker import pulse
from worker.attempt.space import NeverFits
from worker.attempt.trainer import ToolFailed
from worker.fetching import BytesDiffer
from worker.model_cache import BaseMissing
from worker.outage import StorageOutage
from worker.poll_loop import Looker

MAX_TRIES = 3  # of workers that were killed, or whose disk or storage failed
T = TypeVar("T", bound=Wish)
log = structlog.get_logger()


class GivenUp(Exception):
    """This worker ends, or the wish is not ours any more."""


class Impossible(Exception):
    """To try again unchanged is useless; with a code and a sentence for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Fulfiller(Looker, Generic[T]):
    kind: type[T]
    limit_seconds: ClassVar[float]

    def __init__(self, settings: Settings, database: Database, storage: Storage, drain: threading.Event) -> None:
        super().__init__(drain)
        self._settings = settings
        self._database = database
        self._storage = storage
        self._outage = StorageOutage(storage, drain)
        self._owner = new_id(f"{self.kind.__name__.lower()}-")

    @abstractmethod
    def _fulfil(self, wish: T, check: "Heartbeat") -> None:
        """`check` has to be called all the time. May raise `GivenUp`, `Impossible`, and what `_do_next` knows how to tell."""

    def _do_next(self) -> bool:
        if not self._outage.wait_for_end():
            return False
        with self._database.transaction() as session:
            wish = claims.claim(session, self.kind, self._settings.lease.total_seconds())
        if wish is None:
            return False
        try:
            if wish.tries > MAX_TRIES:
                told = f"{MAX_TRIES} workers have not come to its end; the log of the last one may say why."
                raise Impossible(f"{self.kind.__name__.lower()}_failed", told)
            self._fulfil(wish, Heartbeat(wish, self._database, self._settings, self._drain, self.limit_seconds))
        except GivenUp:
            self._release(wish)
        except StorageAway as error:
            self._outage.begin(error)
            self._release(wish)
        except Impossible as error:
            self._fail(wish, error.code, error.message)
        except ToolFailed as error:
            log.warning("wish failed", wish_id=wish.id, error=str(error))
            self._fail(wish, error.failure.code, error.failure.message)
        except NeverFits as error:
            self._fail(wish, f"{self.kind.__name__.lower()}_too_large", str(error))
        except BaseMissing as error:
            self._fail(wish, "base_model_missing", str(error))
        except (FileNotFoundError, BytesDiffer) as error:
            log.error("wish impossible", wish_id=wish.id, error=str(error))
            self._fail(wish, "bytes_missing", "What it is made from is not in the storage as it should be.")
        except (OSError, BaseError) as error:  # the claim grows stale, and then it is tried again
            log.warning("wish not fulfilled", wish_id=wish.id, error=str(error), disk_full=is_disk_full(error))
        return True

    def _release(self, wish: T) -> None:
        with self._database.transaction() as session:
            claims.release(session, wish)

    def _fail(self, wish: T, code: str, message: str) -> None:
        with self._database.transaction() as session:
            claims.fail(session, wish, code, message)


class Heartbeat:
    """To be called all the time. Raises `GivenUp`, and `Impossible` when it takes too long."""

    def __init__(self, wish: Wish, database: Database, settings: Settings, drain: threading.Event, limit_seconds: float) -> None:
        self._wish = wish
        self._database = database
        self._every = settings.heartbeat.total_seconds()
        self._drain = drain
        self._limit_seconds = limit_seconds
        self._started = self._renewed = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if self._drain.is_set():
            raise GivenUp
        if now > self._started + self._limit_seconds:
            raise Impossible("too_slow", f"It took more than {self._limit_seconds / 60:g} minutes.")
        if now > self._renewed + self._every:
            with self._database.transaction() as session:
                if not claims.renew(session, self._wish):
                    raise GivenUp
            self._renewed = now
            pulse.beat()
