"""Claim jobs and execute them, one after the other."""

import time

from redis import Redis

from app.jobs import claims, next_job
from app.models.worker import machine_of
from app.prices.service import price_of
from falqon_core.fault_points import fault
from worker.attempt.execution import Execution
from worker.card_locks import lock_cards
from worker.context import WorkerContext
from worker.gpu import Machine, mark_seen
from worker.outage import StorageOutage

HELD_POLLS = 3  # without another, a machine keeps its cards for a job no longer


class Supervisor:
    """What every attempt on this machine shares."""

    def __init__(self, context: WorkerContext, redis: Redis, machine: Machine) -> None:
        self.context = context
        self.redis = redis
        self.machine = machine
        self._outage = StorageOutage(context)
        self.last_job_id: str | None = None  # of the job that it had last

    def execute_next(self) -> bool:
        """Claim and execute the next job; return False when there is none, or no card is free. One
        that wants several takes them as soon as those before it have ended: on one machine nothing
        behind it begins meanwhile, on the others what wants fewer does. While the storage is away
        it waits.
        """
        if not self._outage.wait_for_end():
            return False
        cards = self.machine.cards
        if not cards:
            return self._execute_next_on(self.machine)
        num_free = len(cards)
        while num_free:
            with self.context.database.read() as session:
                job = next_job.find_next(session, num_free)
            num_gpus = job.num_gpus if job else 1
            with lock_cards(cards, num_gpus, self.machine.unit) as locked:
                if len(locked) == num_gpus:
                    return self._execute_next_on(self.machine._replace(cards=locked))
                num_free = len(locked)
            if job and num_free and self._holds(job.id):
                return False
        with self.context.database.transaction() as session:
            mark_seen(session, self.context, self.machine)
        return False

    def _holds(self, job_id: str) -> bool:
        """Return whether the free cards of this machine are kept for a job. A worker that is being
        drained begins nothing and keeps nothing.
        """
        context = self.context
        seconds = HELD_POLLS * context.settings.poll.total_seconds()
        with context.database.transaction() as session:
            return not mark_seen(session, context, self.machine) or next_job.hold_for(
                session, job_id, machine_of(context.owner), seconds
            )

    def _execute_next_on(self, machine: Machine) -> bool:
        """Take the next job for which the cards of `machine` are enough."""
        context = self.context
        claimed_at = time.monotonic()
        with context.database.transaction() as session:
            if not mark_seen(session, context, self.machine):
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
