"""Delivery of due webhooks, beside the reconciler in every API process: at least once, never twice
at the same time, and one at a time to each endpoint.
"""

import random
import threading
import time
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.models import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from app.webhooks import repository, service
from app.webhooks.posting import Undelivered

NUM_SENDERS = 4  # an unresponsive endpoint occupies one sender
TICK_SECONDS = 2.0
# Total time for all of them; a delivery that the end of the API interrupts is sent again by another
# process or later.
STOP_SECONDS = 1.0
LEASE_SECONDS = 60.0  # well above the time of a slow name resolution and the exchange together
MAX_ATTEMPTS = 8
# Waits: 5 s, 25 s, 2 min, 10 min, 52 min, 4 h, 22 h.
FIRST_DELAY_SECONDS = 5.0
DELAY_FACTOR = 5.0
JITTER = 0.2
STATUS_GONE = 410

# Separate from the process's generator, which tests seed.
RANDOM = random.Random()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    status_code: int | None
    error: str | None  # null: delivered


class Dispatcher:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name="webhooks", daemon=True)
            for _ in range(NUM_SENDERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def send_next(self) -> bool:
        """Send a due delivery; return False when none is. Raises `SQLAlchemyError`."""
        with self._database.read() as session:
            due = repository.due(session)
        if not due:
            return False
        with self._database.transaction() as session:
            # A random endpoint: senders seldom want the same, and each endpoint gets its turn.
            claimed = repository.claim(session, RANDOM.choice(due), LEASE_SECONDS)
            endpoint = session.get_one(WebhookEndpoint, claimed.endpoint_id) if claimed else None
        if claimed is not None and endpoint is not None:
            self._record(claimed, self._send(claimed, endpoint))
        return True

    def _work(self) -> None:
        while not self._ended.wait(TICK_SECONDS * RANDOM.uniform(0.8, 1.2)):
            try:
                while not self._ended.is_set() and self.send_next():
                    pass
            except SQLAlchemyError as error:
                log.warning("webhooks: the database is unavailable", error=str(error))
            except Exception:  # a bad delivery must not keep the others waiting
                log.exception("webhook not sent")

    def _send(self, claimed: WebhookDelivery, endpoint: WebhookEndpoint) -> DeliveryResult:
        if not endpoint.enabled:
            return DeliveryResult(None, service.ENDPOINT_DISABLED)
        assert claimed.attempted_at is not None
        try:
            status_code = service.send(
                endpoint,
                claimed.event_id,
                claimed.event_type,
                claimed.job_id,
                claimed.event_at,
                claimed.attempted_at,
                self._settings,
            )
        except Undelivered as error:
            return DeliveryResult(None, str(error))
        if 200 <= status_code < 300:
            return DeliveryResult(status_code, None)
        return DeliveryResult(status_code, f"the endpoint answered {status_code}")

    def _record(self, claimed: WebhookDelivery, result: DeliveryResult) -> None:
        log.info(
            "webhook",
            delivery=claimed.id,
            attempt=claimed.attempts,
            status_code=result.status_code,
            error=result.error,
        )
        with self._database.transaction() as session:
            endpoint = session.get(WebhookEndpoint, claimed.endpoint_id, with_for_update=True)
            if endpoint is None:  # deleted meanwhile
                return
            if result.status_code == STATUS_GONE:
                service.disable(session, endpoint, service.DISABLED_BY_ANSWER)
            outcome = {"status_code": result.status_code, "error": result.error}
            if result.error is not None and endpoint.enabled and claimed.attempts < MAX_ATTEMPTS:
                repository.record(
                    session, claimed, due_at=now_plus(retry_seconds(claimed.attempts)), **outcome
                )
            else:
                status = DeliveryStatus.FAILED if result.error else DeliveryStatus.DELIVERED
                repository.record(session, claimed, status=status, due_at=None, **outcome)


def retry_seconds(attempts: int) -> float:
    """Return the wait after so many attempts."""
    return (
        FIRST_DELAY_SECONDS
        * DELAY_FACTOR ** (attempts - 1)
        * RANDOM.uniform(1 - JITTER, 1 + JITTER)
    )
