from datetime import date
from decimal import Decimal
from typing import NamedTuple

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


class Row(NamedTuple):
    """Of the table published with the method: training days on 8 GPUs, and dollars."""

    device: str
    method: str
    days: float
    usd: int


GPUS = 8
RATES = {"rtx-4090": Decimal("0.350"), "l40s": Decimal("1.861"), "h100": Decimal("6.88")}
CONSISTENT = [
    Row("rtx-4090", "QLoRA", 89.3, 6001),
    Row("rtx-4090", "QA-LoRA", 153.7, 10328),
    Row("l40s", "QLoRA", 98.3, 35126),
    Row("l40s", "QA-LoRA", 164.0, 58603),
    Row("h100", "QLoRA", 31.1, 41122),
    Row("h100", "QA-LoRA", 25.1, 33114),
]
# The source priced these three 18 to 25 % below the rate of its own baselines on the same card; no
# rounding explains that.
FALQON = {
    Row("rtx-4090", "FALQON", 35.7, 1971): Decimal("0.2876"),
    Row("l40s", "FALQON", 37.7, 10070): Decimal("1.3912"),
    Row("h100", "FALQON", 13.3, 13419): Decimal("5.2549"),
}


def published(row: Row, rate: Decimal) -> float:
    return float(dollars(rate * GPUS, row.days * 86400))


@pytest.mark.parametrize("row", CONSISTENT, ids=lambda row: f"{row.method} on {row.device}")
def test_days_times_gpus_times_rate_is_the_published_cost(row: Row) -> None:
    # days are given to a tenth, rates were derived to a tenth of a percent
    rounding = 0.05 / row.days + 0.001

    assert published(row, RATES[row.device]) == pytest.approx(row.usd, rel=rounding)


@pytest.mark.parametrize("row", FALQON, ids=lambda row: f"{row.method} on {row.device}")
def test_the_published_cost_of_the_method_itself_used_a_lower_rate(row: Row) -> None:
    assert published(row, FALQON[row]) == pytest.approx(row.usd, rel=1e-3)
    assert published(row, RATES[row.device]) > 1.2 * row.usd


def test_the_rates_of_the_published_table_stand_in_ours() -> None:
    listed = {(price.device, price.usd_per_device_hour) for price in PRICES}
    assert set(RATES.items()) <= listed
