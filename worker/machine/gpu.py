"""The device that this machine offers."""

from dataclasses import dataclass, replace
from typing import Self

import structlog
from sqlalchemy.orm import Session

from app.base.processes.device import CPU, cores_of_slot, training_cards, why_cards_are_unused
from app.base.processes.nvidia import has_slice
from app.base.settings import Settings
from app.estimates.service import device_of
from app.workers import service as workers
from worker.context import WorkerContext

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Machine:
    """`device` is a name of the price table. On `cpu`, `num_devices` counts the cores of a slot.
    `cards`: indices of those that a job may have, on a CPU of its slots; none where the driver
    names none, or a CPU has one slot.
    """

    device: str
    num_devices: int
    cards: tuple[int, ...] = ()

    @property
    def is_gpu(self) -> bool:
        return self.device != CPU

    @property
    def max_gpus(self) -> int:
        """The most that one job can have; a card without a name counts as one. A process uses one
        MIG slice, and slices do not reach each other, so no job has two.
        """
        return 1 if self.is_gpu and has_slice(self.cards) else max(1, len(self.cards))

    @property
    def unit(self) -> str:
        """The unit of `cards`."""
        return "card" if self.is_gpu else "slot"

    def part(self, num_gpus: int) -> Self:
        """Return the share of the machine that a job on so many GPUs has and is charged for."""
        num_devices = self.num_devices * num_gpus
        return replace(self, num_devices=num_devices, cards=self.cards[:num_gpus])


def num_threads_of(settings: Settings) -> int | None:
    """Return the threads of one trainer process; None where it may take all cores."""
    return settings.num_threads if settings.slots == 1 else cores_of_slot(settings)


def mark_seen(session: Session, context: WorkerContext, machine: Machine) -> bool:
    """Show this worker; return whether it may begin a job."""
    return workers.mark_seen(
        session, context.owner, machine.device, machine.num_devices, machine.max_gpus, machine.cards
    )


def detect(settings: Settings) -> Machine:
    """Follow the rule that the estimate was made with: a job is charged for the device it trains
    on, not for one that is merely there.
    """
    device, num_devices = device_of(settings)
    if reason := why_cards_are_unused(settings):
        log.warning("a GPU is here and not used", reason=reason)
    return Machine(device.name, num_devices, training_cards(settings))
