from app.web.svg import Bar, bars
from falqon_core.contract.inspection import Histogram


def test_a_bar_stands_for_whole_lengths() -> None:
    counts = Histogram(edges=[9.5, 12.5, 15.5], counts=[3, 1])
    assert bars(counts) == [Bar(10, 12, 3, 100.0, 3), Bar(13, 15, 1, 100 / 3, 3)]


def test_the_few_that_are_much_longer_are_a_bar_as_wide_as_the_others() -> None:
    counts = Histogram(edges=[9.5, 19.5, 29.5, 4000.5], counts=[50, 80, 2])
    first, second, rest = bars(counts)
    assert not second.is_rest
    assert (rest.first, rest.last, rest.width, rest.is_rest) == (30, 4000, 10, True)
    assert rest.end == 40
    assert (first.place(10), rest.place(30), rest.place(4001)) == (10, 30, 40)


def test_older_bins_narrower_than_a_token_leave_no_holes() -> None:
    """Eleven lengths were counted in twenty bins."""
    edges = [33 + 0.55 * step for step in range(20)] + [44.0]
    counts = [0] * 20
    for length in range(33, 45):
        counts[min(int((length - 33) / 0.55), 19)] += 5
    drawn = bars(Histogram(edges=edges, counts=counts))
    assert drawn == [Bar(length, length, 5, 100.0, 1) for length in range(33, 45)]
