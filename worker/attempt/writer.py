"""Guarded writes about one attempt: each carries the claim, and the first that matches no row ends
the attempt.
"""

import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import structlog

from app.jobs.events import NewEvent
from worker.attempt.lease import Lease, LeaseLost
from worker.gateway import UNAVAILABLE, Gateway

MAX_BACKOFF_SECONDS = 5.0
T = TypeVar("T")
log = structlog.get_logger()


class AttemptWriter:
    def __init__(self, gateway: Gateway, lease: Lease) -> None:
        self.gateway = gateway
        self.claim = lease.claim
        self.lease = lease

    def write(self, call: Callable[[], T]) -> T:
        """Do one call of the gateway. Raises one of `UNAVAILABLE`, `LeaseLost`."""
        self.lease.check()
        return call()

    def write_with_retry(self, call: Callable[[], T]) -> T:
        """Do as `write` does, but wait for the service as long as the lease lasts."""
        backoff = 0.1
        while True:
            try:
                return self.write(call)
            except UNAVAILABLE as error:
                log.warning("database unavailable", job_id=self.claim.job_id, error=str(error))
                time.sleep(backoff)
                backoff = min(MAX_BACKOFF_SECONDS, 2 * backoff)

    def write_end(self, call: Callable[[], bool]) -> bool:
        """Do as `write_with_retry` does, for the call that ends the attempt."""
        self.lease.is_ending = True
        is_ours = self.write_with_retry(call)
        self.lease.is_ending = is_ours
        return is_ours

    def add_event(self, event: NewEvent) -> None:
        if not self.write_with_retry(lambda: self.gateway.append_events(self.claim, [event])):
            self.raise_lease_lost()

    def raise_lease_lost(self) -> NoReturn:
        self.lease.lose()
        raise LeaseLost
