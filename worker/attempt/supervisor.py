"""Claim jobs and execute them, one after the other."""

import time

from redis import Redis

from app.jobs import claims, next_job
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
        self.last_job_id: str | None = None  # of the job that it had last

    def execute_next(self) -> bool:
        """Claim and execute the oldest runnable job; return False when there is none, or too few
        cards are free for it: one that needs several takes them as soon as those before it have
        ended, as nothing behind it begins meanwhile. While the storage is away it waits.
        """
        if not self._outage.wait_for_end():
            return False
        cards = self.machine.cards
        if not cards:
            return self._execute_next_on(self.machine)
        with self.context.database.read() as session:
            num_gpus = next_job.next_num_gpus(session, len(cards)) or 1
        with lock_cards(cards, num_gpus, self.machine.unit) as locked:
            if len(locked) < num_gpus:
                return False
            return self._execute_next_on(self.machine._replace(cards=locked))

    def _execute_next_on(self, machine: Machine) -> bool:
        """Take the next job for which the cards of `machine` are enough."""
        context = self.context
        claimed_at = time.monotonic()
        with context.database.transaction() as session:
            if not workers.mark_seen(
                session, context.owner, machine.device, machine.num_devices, self.machine.max_gpus
            ):
                return False
            price = price_of(session, context.settings, machine.device)
            job = claims.claim(
                session,
                owner=context.owner,
                device=machine.device,
                num_devices=machine.num_devices,
                lease_seconds=context.settings.lease.total_seconds(),
                cards=machine.cards,
            )
        if job is None:
            return False
        self.last_job_id = job.id
        machine = machine.part(job.num_gpus)
        fault("after_claim_commit")
        Execution(
            context, self.redis, machine, self._outage, job, claimed_at=claimed_at, price=price
        ).run()
        return True
