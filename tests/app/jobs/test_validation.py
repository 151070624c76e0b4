from decimal import Decimal

from app.jobs import validation
from app.models import Job
from app.models.falqon_options import Budget
from tests.support.job_columns import estimated


def test_a_budget_in_dollars_on_a_card_without_a_price_is_warned_of() -> None:
    estimate = estimated(10.0, 20.0, 30.0)
    zero = {name: Decimal(0) for name in ("low", "expected", "high", "usd_per_device_hour")}
    unpriced = estimate.model_copy(
        update={"device": "gb10-sm121", "cost": estimate.cost.model_copy(update=zero)}
    )
    job = Job(budget=Budget(max_cost_usd=Decimal("0.01"), max_seconds=5))
    codes = [(event.data or {})["code"] for event in validation._budget_warning(job, unpriced)]
    assert codes == ["budget_unpriced", "budget_below_estimate"]
    only_dollars = Job(budget=Budget(max_cost_usd=Decimal(1)))
    (event,) = validation._budget_warning(only_dollars, unpriced)
    assert "stops nothing on gb10-sm121, which has no price" in event.message
    assert validation._budget_warning(only_dollars, estimate) == []
