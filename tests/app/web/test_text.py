import re
from decimal import Decimal

from app.web import text
from app.web.rendering import WEB_FOLDER
from falqon_core.estimate.estimate import Cost

ZERO = Decimal(0)


def test_a_setting_is_written_as_json_spells_it() -> None:
    values = (True, {"enable_thinking": False}, ["q_proj", "v_proj"], 0.5)
    written = ["true", '{"enable_thinking": false}', "q_proj, v_proj", "0.5"]
    assert [text.setting(value) for value in values] == written


def test_a_moment_stands_where_the_script_writes_it_in_the_readers_time_zone() -> None:
    for path in (WEB_FOLDER / "templates").rglob("*.html"):
        template = path.read_text()
        for attributes, content in re.findall(r"<time\b([^>]*)>(.*?)</time>", template, re.DOTALL):
            assert "moment" not in content or "data-local" in attributes, path
        outside = re.sub(r"<time\b[^>]*>.*?</time>", "", template, flags=re.DOTALL)
        assert not re.search(r"\| *moment *}}", outside), path


def test_a_fraction_to_tolerate_is_rounded_up() -> None:
    written = {1 / 30: "0.033334", 0.07: "0.07", 0.1: "0.1", 1 / 40_000_000: "0.000001"}
    assert {share: text.least_fraction(share) for share in written} == written
    for num_all in range(10, 5_000, 7):
        share = 1 / num_all
        assert share <= float(text.least_fraction(share)) <= min(0.1, share + 1e-6)


def test_an_amount_at_no_price_is_unpriced_and_one_that_was_charged_stays() -> None:
    unpriced = Cost(
        low=ZERO, expected=ZERO, high=ZERO, usd_per_device_hour=ZERO, price_source="unpriced"
    )
    assert text.usd(ZERO, unpriced) == text.price(ZERO) == "unpriced"
    assert text.usd("0.5", unpriced) == text.price("0.5") == "$0.5000"
