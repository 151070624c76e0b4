"""Cost of the time in which engines of workers answered."""

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.orm import Session

from app.base.settings import Settings
from app.models import Batch, Evaluation
from app.prices.service import price_of
from falqon_core.estimate.prices import Price, cents, usd
from worker.machine.engines import device_of_engines


@dataclass(slots=True)
class Charge:
    """Time in which engines of workers answered on `num_devices`, and its cost at the price of each
    moment. `price` is that of the time that follows.
    """

    seconds: float
    amount: Decimal  # Not rounded: amounts that are added up must not lose their small parts.
    num_devices: int
    price: Price

    @property
    def cost(self) -> Decimal:
        return cents(self.amount)

    def add(self, seconds: float) -> None:
        """Charge more time; what has been charged stays."""
        self.seconds += seconds
        self.amount += usd(self.price.usd_per_device_hour * self.num_devices, seconds)

    def reprice(self, session: Session, settings: Settings) -> None:
        """Charge the price of now for the time that follows."""
        self.price = price_of(session, settings, self.price.device)


def charge_of(session: Session, settings: Settings, operation: Batch | Evaluation) -> Charge:
    """Return the charge of earlier attempts, to which the engines of this machine add."""
    device, num_devices = device_of_engines(settings)
    price = price_of(session, settings, device)
    seconds, amount = operation.seconds or 0.0, operation.cost
    if amount is None:  # Workers of an earlier version store the seconds of an evaluation alone.
        amount = usd(price.usd_per_device_hour * num_devices, seconds)
    return Charge(seconds, amount, num_devices, price)
