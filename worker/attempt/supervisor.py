"""Claim jobs and execute them, one after the other."""

import threading
import time
from dataclasses import replace

from app.attempts.values import WorkerOffer
from app.base.settings import Settings
from app.base.storage import StorageUnavailable
from falqon_core.fault_points import fault
from worker.attempt.execution import Execution
from worker.gateway import Gateway
from worker.machine.card_locks import lock_cards
from worker.machine.gpu import Machine
from worker.machine.outage import StorageOutage


class Supervisor:
    """Parts that all attempts on this machine share."""

    def __init__(
        self, settings: Settings, gateway: Gateway, machine: Machine, shutting_down: threading.Event
    ) -> None:
        self.settings = settings
        self.gateway = gateway
        self.machine = machine
        self.shutting_down = shutting_down
        self._outage = StorageOutage(gateway.probe_storage, shutting_down)
        self.last_job_id: str | None = None  # The latest job of this worker.

    def execute_next(self) -> bool:
        """Claim and execute the next job; return False when there is none, or no card is free. One
        that wants several takes them as soon as those before it have ended: on one machine nothing
        behind it begins meanwhile, on the others what wants fewer does. While the storage is
        unavailable it waits.
        """
        if not self._outage.wait_for_end():
            return False
        cards = self.machine.cards
        if not cards:
            return self._execute_next_on(self.machine)
        num_free = len(cards)
        while num_free:
            job = self.gateway.find_next(self.machine.device, num_free)
            num_gpus = job.num_gpus if job else 1
            with lock_cards(cards, num_gpus, self.machine.unit) as locked:
                if len(locked) == num_gpus:
                    return self._execute_next_on(replace(self.machine, cards=locked))
                num_free = len(locked)
            if job and num_free and self.gateway.hold(self._offer(self.machine), job.id):
                return False
        self.gateway.show(self._offer(self.machine))
        return False

    def _offer(self, machine: Machine) -> WorkerOffer:
        whole = self.machine
        return WorkerOffer(
            machine.device, machine.num_devices, whole.max_gpus, machine.cards, whole.cards
        )

    def _execute_next_on(self, machine: Machine) -> bool:
        """Take the next job for which the cards of `machine` are enough."""
        claimed_at = time.monotonic()
        try:
            claimed = self.gateway.claim(self._offer(machine))
        except StorageUnavailable as error:
            self._outage.begin(error)
            return False
        if claimed is None:
            return False
        self.last_job_id = claimed.job.id
        fault("after_claim_commit")
        Execution(
            self.settings,
            self.gateway,
            machine.part(claimed.job.num_gpus),
            self._outage,
            claimed,
            claimed_at=claimed_at,
            shutting_down=self.shutting_down,
        ).run()
        return True
