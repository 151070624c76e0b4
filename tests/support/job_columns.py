"""Values of a job's columns, as a test needs them."""

from decimal import Decimal

from app.models.job_progress import JobCost
from falqon_core.contract.config import Recipe
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import Estimate, Range, estimate
from tests.support.api import TINY_CONFIG


def cost(accrued: str) -> JobCost:
    return JobCost(
        currency="usd",
        usd_per_device_hour=Decimal("2.69"),
        price_source="test",
        accrued=Decimal(accrued),
        projected=None,
        projected_low=None,
        projected_high=None,
    )


def estimated(low: float, expected: float, high: float, overhead: float | None = None) -> Estimate:
    """Return an estimate of so many seconds."""
    any_estimate = estimate(
        ModelDimensions.from_config(TINY_CONFIG),
        Recipe().resolved(1),
        num_records=1,
        tokens_per_epoch=1,
        device=DEVICES["cpu"],
    )
    seconds = Range(low=low, expected=expected, high=high)
    return any_estimate.model_copy(update={"seconds": seconds, "overhead_seconds": overhead})
