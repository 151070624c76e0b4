from app.base import text


def test_less_than_a_cent_or_a_second_is_not_nothing() -> None:
    assert [text.usd(each) for each in ("0.0001", "0.0099")] == ["< $0.01", "< $0.01"]
    assert [text.usd(each) for each in ("0.0000", "0.0100", "1.5")] == ["$0.00", "$0.0100", "$1.50"]
    assert text.rate("0.0045") == "$0.0045", "of an hour or a million tokens"
    assert [text.duration(each) for each in (0, 0.02, 0.9, 1.0)] == ["0 s", "< 1 s", "< 1 s", "1 s"]


def test_sizes_have_one_digit_up_to_the_largest_unit() -> None:
    sizes = (1023, 1024, 1.5 * 2**40, 2000 * 2**40)
    assert [text.size(each) for each in sizes] == ["1023 B", "1.0 KiB", "1.5 TiB", "2000.0 TiB"]
