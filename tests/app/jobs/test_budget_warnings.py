from decimal import Decimal

from app.jobs.budget_warnings import warn_of_budget
from app.models.falqon_options import Budget
from tests.support.job_columns import estimated


def test_a_budget_in_dollars_on_a_card_without_a_price_is_warned_of() -> None:
    estimate = estimated(10.0, 20.0, 30.0)
    zero = {name: Decimal(0) for name in ("low", "expected", "high", "usd_per_device_hour")}
    unpriced = estimate.model_copy(
        update={"device": "gb10-sm121", "cost": estimate.cost.model_copy(update=zero)}
    )
    both = warn_of_budget(Budget(max_cost_usd=Decimal("0.01"), max_seconds=5), unpriced)
    assert [each.code for each in both] == ["budget_unpriced", "budget_below_estimate"]
    only_dollars = Budget(max_cost_usd=Decimal(1))
    (warning,) = warn_of_budget(only_dollars, unpriced)
    assert "stops nothing on gb10-sm121, which has no price" in warning.text
    assert warn_of_budget(only_dollars, estimate) == []


def test_a_cap_below_the_start_names_the_time_that_it_takes() -> None:
    estimate = estimated(10.0, 20.0, 30.0, overhead=8.0)
    (warning,) = warn_of_budget(Budget(max_seconds=6), estimate)
    assert (warning.code, warning.field) == ("budget_below_start", "max_seconds")
    assert warning.text.startswith("Start and export alone take about 8 s")
    (late,) = warn_of_budget(Budget(max_seconds=9), estimate)
    assert late.code == "budget_below_estimate"
