"""Cost of the time in which engines of workers answered."""

from dataclasses import dataclass
from decimal import Decimal

from app.prices.service import price_of
from falqon_core.estimate.prices import Price, cents, usd
from worker.context import WorkerContext
from worker.machine.engines import device_of_engines


@dataclass(frozen=True, slots=True)
class Charge:
    """Time in which engines of workers answered on `num_devices`, at a price."""

    seconds: float
    num_devices: int
    price: Price

    @property
    def cost(self) -> Decimal:
        return cents(usd(self.price.usd_per_device_hour * self.num_devices, self.seconds))


def charge_of(context: WorkerContext, seconds: float) -> Charge:
    """Return what so many seconds of answers cost on the engines of this machine."""
    device, num_devices = device_of_engines(context.settings)
    with context.database.read() as session:
        price = price_of(session, context.settings, device)
    return Charge(seconds, num_devices, price)
