import pytest

from app.client import text
from app.client.api import Json


def test_a_cost_is_written_as_on_a_page_and_what_is_none_as_the_service_sent_it() -> None:
    assert text.cost_of("0.0001", "0.0031") == "< $0.01"
    assert text.cost_of("0.0001", "1.5000") == "< $0.01 of about $1.50"
    assert text.cost_of("0.0200", "0.0200") == "$0.0200"
    strange = ("1e999999999", "-1e999999999", "NaN", "much")
    assert [text.usd(each) for each in strange] == [f"${each}" for each in strange]


def test_gpus_are_named_by_their_models() -> None:
    assert text.cards({"device": "h100", "cards": [1]}) == "card 1"
    assert text.cards({"device": "cpu", "cards": [0, 1]}) == "slots 0, 1"
    assert text.cards({"device": "cpu", "cards": []}) == ""
    assert text.cards({"device": "h100"}) == "", "of an earlier service"


def test_an_amount_at_no_price_is_unpriced() -> None:
    cost = {"accrued": "0.0000", "projected": "0.0000", "usd_per_device_hour": "0"}
    assert text.cost_so_far({"cost": cost}) == "unpriced"
    assert text.cost_so_far({"cost": cost | {"usd_per_device_hour": "0.10"}}) == "$0.00"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({}, "succeeded"),
        ({"verdict": {"verdict": "no_clear_difference"}, "health": []}, "succeeded"),
        ({"verdict": {"verdict": "worse"}, "health": []}, "succeeded, no better"),
        ({"verdict": None, "health": [{"is_failing": False}]}, "succeeded"),
        (
            {"verdict": {"verdict": "better"}, "health": [{"is_failing": True}]},
            "succeeded, no better",
        ),
    ],
)
def test_a_model_is_no_better_by_its_health_or_its_evaluation(job: Json, expected: str) -> None:
    assert text.status({"status": "succeeded"} | job) == expected
    assert text.status({"status": "running"} | job) == "running"
