"""Cost of the time in which engines answered."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from app.prices.service import price_of
from falqon_core.estimate.prices import Price, cents, usd
from worker.context import WorkerContext
from worker.machine.engines import device_of_engines


@dataclass(frozen=True, slots=True)
class Charge:
    """Time in which engines answered on `num_devices` at a price; None on an engine of the
    operator's own.
    """

    seconds: float
    num_devices: int
    price: Price | None

    @property
    def cost(self) -> Decimal:
        if self.price is None:
            return Decimal(0)
        return cents(usd(self.price.usd_per_device_hour * self.num_devices, self.seconds))


def charge_of(context: WorkerContext, seconds: float, model_ids: Iterable[str]) -> Charge:
    """Return what so many seconds of answers of some models cost on the engines of this machine."""
    if all(map(context.settings.engine_url_of, model_ids)):
        return Charge(seconds, 1, None)
    device, num_devices = device_of_engines(context.settings)
    with context.database.read() as session:
        price = price_of(session, context.settings, device)
    return Charge(seconds, num_devices, price)
