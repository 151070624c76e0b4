"""Warnings of a budget within which a job will not end. It is accepted: estimates err, and a job
loses nothing at its cap.
"""

from decimal import Decimal
from typing import NamedTuple

from app.base.text import duration, usd
from app.models.falqon_options import Budget
from falqon_core.estimate.estimate import Estimate

COST = "max_cost_usd"


class BudgetWarning(NamedTuple):
    code: str
    field: str  # of the budget
    text: str

    @property
    def param(self) -> str:
        return f"falqon.budget.{self.field}"


def warn_of_budget(budget: Budget | None, estimate: Estimate) -> list[BudgetWarning]:
    budget = budget or Budget()
    warnings = []
    if estimate.cost.is_unpriced and budget.max_cost_usd is not None:
        unpriced = (
            f"The budget in dollars stops nothing on {estimate.device}, which has no price: set "
            "one under Settings, Prices, or limit the seconds"
        )
        warnings.append(BudgetWarning("budget_unpriced", COST, unpriced))
    overhead = estimate.overhead_seconds or 0.0
    if cap := budget.find_reached_cap(overhead, _cost_of(overhead, estimate)):
        field = cap.split()[0]
        at_least = duration(overhead)
        if field == COST:
            at_least = usd(_cost_of(overhead, estimate))
        text = f"Start and export alone take about {at_least}; the job will pause before its end"
        warnings.append(BudgetWarning("budget_below_start", field, text))
    elif cap := budget.find_reached_cap(estimate.seconds.low, estimate.cost.low):
        at_best = f"{estimate.seconds.low:.0f} s and ${estimate.cost.low}"
        text = (
            f"The budget is less than this job is estimated to take at best ({at_best}); "
            f"it will pause at {cap}"
        )
        warnings.append(BudgetWarning("budget_below_estimate", cap.split()[0], text))
    return warnings


def _cost_of(seconds: float, estimate: Estimate) -> Decimal:
    """Return the cost of so much of the expected time."""
    cost = estimate.cost.usd_per_device_hour * estimate.num_devices * Decimal(seconds) / 3600
    return cost.quantize(Decimal("0.0001"))
