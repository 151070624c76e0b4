from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.prices import PRICES, Dollars, cents, default_price, dollars, usd


def test_every_device_has_a_default_and_every_gpu_several_providers() -> None:
    for name in DEVICES:
        assert default_price(name) == next(price for price in PRICES if price.device == name)
        providers = {price.provider for price in PRICES if price.device == name}
        assert len(providers) >= (1 if name == "cpu" else 2)
    assert {price.device for price in PRICES} == set(DEVICES)


def test_every_price_says_whose_it_is_and_when_it_was_read() -> None:
    for price in PRICES:
        assert price.usd_per_device_hour > 0
        assert date(2026, 1, 1) < price.as_of < date(2027, 1, 1)
        assert price.source
        assert price.provider in price.label
    assert len({(price.device, price.provider, price.kind) for price in PRICES}) == len(PRICES)


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [
        ("2.69", 3600, "2.6900"),
        ("0.045", 60, "0.0008"),
        ("1", 0, "0.0000"),
        ("0.36", 0.5, "0.0001"),
        ("6.88", 86400 * 31.1, "5135.2320"),
    ],
)
def test_dollars_are_exact_to_a_hundredth_of_a_cent(
    rate: str, seconds: float, expected: str
) -> None:
    assert str(dollars(Decimal(rate), seconds)) == expected


@given(st.lists(st.floats(0, 10), max_size=30))
def test_small_amounts_add_up(pieces: list[float]) -> None:
    rate = Decimal("0.045")
    total = sum((usd(rate, piece) for piece in pieces), Decimal(0))

    assert abs(cents(total) - dollars(rate, sum(pieces))) <= Decimal("0.0001")


class Money(BaseModel):
    amount: Dollars


def test_money_is_a_decimal_string() -> None:
    assert Money.model_validate({"amount": "2.50"}).model_dump(mode="json") == {"amount": "2.50"}
    for wrong in (
        2.5,
        2,
        True,
        "0",
        "-1",
        "1e3",
        "NaN",
        "1.23456",
        "",
        " 1",
        "1,5",
        "\u0661",
        "1" * 10,
        None,
    ):
        with pytest.raises(ValidationError):
            Money.model_validate({"amount": wrong})
