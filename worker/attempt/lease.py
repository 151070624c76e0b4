"""Holding a claim: renew it, learn the desired state, stop in time when it cannot be renewed."""

import threading
import time
from collections.abc import Callable
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.jobs.claims import Claim
from app.models import Desired
from falqon_core.fault_points import fault
from worker.gateway import Gateway, ServiceUnavailable
from worker.machine import pulse

# Share of the lease that may pass without a confirmed renewal. It ends before the database may give
# the job to another worker.
FENCE_SHARE = 3 / 4
RENEWAL_RETRY_SECONDS = 1.0  # The database may be back just before the fence.
log = structlog.get_logger()


class LeaseLost(Exception):
    """Another worker may hold the job now; nothing more may be written."""


class Lease:
    """Two threads: one renews through its own connection, one watches a monotonic clock, because
    the first may hang in the call.

    `on_lost` runs once, in either thread, and must kill the trainer.
    """

    def __init__(
        self,
        gateway: Gateway,
        claim: Claim,
        *,
        lease_seconds: float,
        heartbeat_seconds: float,
        claimed_at: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self.claim = claim
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._confirmed_at = claimed_at
        self._on_lost = on_lost
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._lost = False
        self.desired = Desired.RUN
        self.must_stop = False  # The worker is being drained.
        self.is_ending = False  # The end is being written, and the lease is no longer renewed.
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._beat, self._watch)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @property
    def lost(self) -> bool:
        return self._lost

    def check(self) -> None:
        if self._lost:
            raise LeaseLost

    def lose(self) -> None:
        with self._lock:
            if self._lost or self._ended.is_set():
                return
            self._lost = True
        log.warning("lease lost", job_id=self.claim.job_id, attempt=self.claim.attempt)
        self._on_lost()

    def _beat(self) -> None:
        pause = self._heartbeat_seconds
        while not self._ended.wait(pause) and not self._lost:
            fault("before_renewal")
            asked_at = time.monotonic()
            try:
                renewal = self._gateway.renew(self.claim)
            except (SQLAlchemyError, ServiceUnavailable) as error:
                log.warning("lease not renewed", job_id=self.claim.job_id, error=str(error))
                pause = min(self._heartbeat_seconds, RENEWAL_RETRY_SECONDS)
                continue
            if renewal is None:
                if not self.is_ending:  # The write of the end reports the loss itself.
                    self.lose()
                return
            pause = self._heartbeat_seconds
            self._confirmed_at = asked_at
            pulse.beat()
            self.desired, self.must_stop = renewal

    def _watch(self) -> None:
        while not (self._lost or self._ended.is_set()):
            left = self._confirmed_at + FENCE_SHARE * self._lease_seconds - time.monotonic()
            if left <= 0:
                self.lose()
            elif self._ended.wait(left):
                return
