from app.client import text


def test_less_than_a_cent_or_a_second_is_not_nothing() -> None:
    assert [text.usd(each) for each in ("0.0001", "0.0100", "0.0000")] == [
        "< $0.01",
        "$0.0100",
        "$0.00",
    ]
    assert text.cost_of("0.0001", "0.0031") == "< $0.01"
    assert text.cost_of("0.0001", "1.5000") == "< $0.01 of about $1.5000"
    assert text.cost_of("0.0200", "0.0200") == "$0.0200"
    assert [text.duration(each) for each in (0.0, 0.04, 1.0)] == ["0.0 s", "< 1 s", "1.0 s"]


def test_cards_are_named_as_what_they_are() -> None:
    assert text.cards({"device": "h100", "cards": [1]}) == "card 1"
    assert text.cards({"device": "cpu", "cards": [0, 1]}) == "slots 0, 1"
    assert text.cards({"device": "cpu", "cards": []}) == ""
    assert text.cards({"device": "h100"}) == "", "of an earlier service"


def test_an_amount_at_no_price_is_unpriced() -> None:
    cost = {"accrued": "0.0000", "projected": "0.0000", "usd_per_device_hour": "0"}
    assert text.cost_so_far({"cost": cost}) == "unpriced"
    assert text.cost_so_far({"cost": cost | {"usd_per_device_hour": "0.10"}}) == "$0.00"
