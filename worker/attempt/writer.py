"""Guarded writes about one attempt: each carries the claim, and the first that matches no row ends
the attempt.
"""

import time
from collections.abc import Callable

import structlog
from redis import Redis
from sqlalchemy.orm import Session

from app.database import AWAY, Database, now
from app.jobs import claims, internal_repository
from app.jobs.events import NewEvent
from app.notifier import wakeups
from app.usage import service as usage
from worker.attempt.lease import Lease, LeaseLost

MAX_BACKOFF_SECONDS = 5.0
log = structlog.get_logger()


class AttemptWriter:
    def __init__(self, database: Database, redis: Redis, lease: Lease) -> None:
        self._database = database
        self._redis = redis
        self.claim = lease.claim
        self.lease = lease

    def write(self, action: Callable[[Session], bool]) -> bool:
        """Run `action` in one transaction and wake the readers. Return False when its guard matched
        no row. Raises one of `AWAY`, `LeaseLost`.
        """
        self.lease.check()
        with self._database.transaction() as session:
            is_ours = action(session)
            if is_ours:
                usage.book(session, self.claim.job_id, now(session).date())
            seq = internal_repository.last_event_seq(session, self.claim.job_id)
        if is_ours and seq is not None:
            wakeups.publish(self._redis, self.claim.job_id, seq)
        return is_ours

    def write_with_retry(self, action: Callable[[Session], bool]) -> bool:
        """Do as `write` does, but wait for the database as long as the lease lasts."""
        backoff = 0.1
        while True:
            try:
                return self.write(action)
            except AWAY as error:
                log.warning("the database is away", job_id=self.claim.job_id, error=str(error))
                time.sleep(backoff)
                backoff = min(MAX_BACKOFF_SECONDS, 2 * backoff)

    def add_event(self, event: NewEvent) -> None:
        if not self.write_with_retry(
            lambda session: claims.append_events(session, self.claim, [event])
        ):
            self.raise_lease_lost()

    def raise_lease_lost(self) -> None:
        self.lease.lose()
        raise LeaseLost
