from decimal import Decimal

import pytest

from app.base.settings import Settings
from app.models import Evaluation
from app.prices import service as prices
from app.prices.schemas import Override
from falqon_core.estimate.prices import default_price
from tests.support.backend import Backend
from worker.evaluation.charge import Charge, charge_of


@pytest.fixture
def settings(embedded_backend: Backend) -> Settings:
    return embedded_backend.settings.model_copy(update={"device": "cpu"})


def test_small_parts_are_not_lost() -> None:
    price = default_price("cpu")
    charge = Charge(0.0, Decimal(0), 1, price)
    for _ in range(36_000):
        charge.add(0.1)
    assert charge.cost == price.usd_per_device_hour


def test_a_new_price_is_that_of_the_time_that_follows(
    embedded_backend: Backend, settings: Settings
) -> None:
    with embedded_backend.database.transaction() as session:
        charge = charge_of(session, settings, Evaluation(seconds=3600.0, cost=Decimal(7)))
        for usd in ("1", "2"):
            price = Override(device="cpu", usd_per_device_hour=Decimal(usd), source="ours")
            prices.replace(session, [price])
            charge.reprice(session, settings)
            charge.add(1800.0)
    assert charge.seconds == 7200
    assert charge.cost == 7 + Decimal("1.5") * charge.num_devices


def test_seconds_that_an_earlier_version_stored_alone_have_the_price_of_now(
    embedded_backend: Backend, settings: Settings
) -> None:
    with embedded_backend.database.read() as session:
        charge = charge_of(session, settings, Evaluation(seconds=3600.0))
    assert charge.cost == charge.price.usd_per_device_hour * charge.num_devices > 0
