"""The cost of a job so far, at the price of each moment. Callers pass the time, in seconds."""

from decimal import Decimal

from app.models.job_progress import JobCost
from falqon_core.estimate.eta import Eta
from falqon_core.estimate.prices import Price, cents, usd


class CostMeter:
    def __init__(self, accrued: Decimal, price: Price | None, num_devices: int) -> None:
        self._price = price
        self._num_devices = num_devices
        self._charged = accrued  # Cost until `_charged_at`, at the prices of its time.
        self._charged_at = 0.0

    def reprice(self, price: Price | None, now: float) -> None:
        """Charge another price from now on; what has been charged stays."""
        self._charged = self._sum(now)
        self._charged_at = now
        self._price = price

    def accrued(self, now: float) -> Decimal | None:
        return None if self._price is None else cents(self._sum(now))

    def cost(self, now: float, left: Eta | None) -> JobCost | None:
        """Return the cost so far, and at the end if so much time is left."""
        price = self._price
        if price is None:
            return None
        accrued = self._sum(now)
        rate = price.usd_per_device_hour * self._num_devices

        def project(seconds: float | None) -> Decimal | None:
            return None if seconds is None else cents(accrued + usd(rate, seconds))

        return JobCost(
            currency="usd",
            usd_per_device_hour=price.usd_per_device_hour,
            price_source=price.label,
            accrued=cents(accrued),
            projected=project(left and left.expected),
            projected_low=project(left and left.low),
            projected_high=project(left and left.high),
        )

    def _sum(self, now: float) -> Decimal:
        if self._price is None:
            return self._charged
        rate = self._price.usd_per_device_hour * self._num_devices
        return self._charged + usd(rate, now - self._charged_at)
