"""Wording of costs, before anything is spent and after."""

from collections.abc import Iterator
from decimal import Decimal

from app.client import text
from app.client.api import Json

ANY_DEVICE = "any"


def worst_price(estimate: Json, gpu: str = ANY_DEVICE) -> Decimal:
    """Return the high end of the cost, on the most expensive device that may take the job."""
    return max(Decimal(cost["high"]) for cost in _costs(estimate, gpu))


def describe_estimate(estimate: Json, gpu: str = ANY_DEVICE) -> str:
    cost = estimate["cost"]
    rate = cost["usd_per_device_hour"]
    expected, low, high = (text.usd_at(cost[name], rate) for name in ("expected", "low", "high"))
    worst = text.usd_at(worst_price(estimate, gpu), rate)
    if worst == "unpriced":
        return f"unpriced: {cost['price_source']}"
    return (
        f"expected {expected} ({low} to {high}) on {estimate['num_devices']} x "
        f"{estimate['device']}, at worst {worst}; {cost['price_source']}"
    )


def describe_job(job: Json) -> str:
    """Say what a job has cost so far, and its cap."""
    cap = (job.get("budget") or {}).get("max_cost_usd")
    so_far = text.cost_so_far(job) or "nothing yet"
    return so_far if cap is None else f"{so_far}; it pauses at {text.usd(cap)}"


def _costs(estimate: Json, gpu: str) -> Iterator[Json]:
    yield estimate["cost"]
    if gpu == ANY_DEVICE:
        yield from (each["cost"] for each in estimate.get("by_device") or [])
