"""Claim jobs and execute them, one after the other."""

import time

from redis import Redis

from app.jobs import claims
from app.prices.service import price_of
from app.workers import service as workers
from falqon_core.fault_points import fault
from worker.attempt.execution import Execution
from worker.card_locks import lock_cards
from worker.context import WorkerContext
from worker.gpu import Machine
from worker.outage import StorageOutage


class Supervisor:
    """What every attempt on this machine shares."""

    def __init__(self, context: WorkerContext, redis: Redis, machine: Machine) -> None:
        self.context = context
        self.redis = redis
        self.machine = machine
        self._outage = StorageOutage(context)

    def execute_next(self) -> bool:
        """Claim and execute the oldest runnable job; return False when there is none, or no card
        for it. While the storage is away it waits.
        """
        if not self._outage.wait_for_end():
            return False
        with lock_cards(self.machine.cards, 1) as cards:
            if self.machine.cards and not cards:
                return False
            return self._execute_next_on(self.machine._replace(cards=cards))

    def _execute_next_on(self, machine: Machine) -> bool:
        context = self.context
        claimed_at = time.monotonic()
        with context.database.transaction() as session:
            workers.mark_seen(session, context.owner, machine.device, machine.num_devices)
            price = price_of(session, context.settings, machine.device)
            job = claims.claim(
                session,
                owner=context.owner,
                device=machine.device,
                num_devices=machine.num_devices,
                lease_seconds=context.settings.lease.total_seconds(),
            )
        if job is None:
            return False
        fault("after_claim_commit")
        Execution(
            context, self.redis, machine, self._outage, job, claimed_at=claimed_at, price=price
        ).run()
        return True
