from app.web import text


def test_less_than_a_cent_or_a_second_is_not_nothing() -> None:
    assert [text.usd(each) for each in ("0.0001", "0.0099")] == ["< $0.01", "< $0.01"]
    assert [text.usd(each) for each in ("0.0000", "0.0100", "1.5")] == ["$0.00", "$0.0100", "$1.50"]
    assert text.rate("0.0045") == "$0.0045", "of an hour or a million tokens"
    assert [text.duration(each) for each in (0, 0.02, 0.9, 1.0)] == ["0 s", "< 1 s", "< 1 s", "1 s"]
