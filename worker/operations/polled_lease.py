"""A lease that its holder renews between two pieces of work. An attempt of a job renews its own in
a thread, because a step may take longer than a lease (worker/attempt/lease.py).
"""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from worker.context import WorkerContext

RETRY_SECONDS = 1.0  # the database may be back before the lease ends

log = structlog.get_logger()


class PolledLease:
    """Renews a lease with each heartbeat that is due, and holds it through a database outage
    that is shorter than the lease.

    `renew` extends the lease by so many seconds, and raises what its holder handles when it is
    lost. `names` go into the log.
    """

    def __init__(
        self, context: WorkerContext, renew: Callable[[Session, float], None], **names: str
    ) -> None:
        self._database = context.database
        self._lease_seconds = context.settings.lease.total_seconds()
        self._heartbeat_seconds = context.settings.heartbeat.total_seconds()
        self._renew = renew
        self._names = names
        self._renewed_at = time.monotonic()
        self._retry_at = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= max(self._renewed_at + self._heartbeat_seconds, self._retry_at)

    def renew_when_due(self) -> bool:
        """Return whether the lease was renewed.

        Raises one of `DATABASE_UNAVAILABLE_ERRORS` when the lease would end before the next try.
        """
        if not self.is_due:
            return False
        now = time.monotonic()
        try:
            with self._database.transaction() as session:
                self._renew(session, self._lease_seconds)
        except DATABASE_UNAVAILABLE_ERRORS as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if self._retry_at > self._renewed_at + self._lease_seconds:
                raise
            log.warning("lease not renewed", error=str(error), **self._names)
            return False
        self._renewed_at = now
        return True
