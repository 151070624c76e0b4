import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.estimate.eta import Interruptions, estimate_eta, num_left

SECONDS = st.floats(0.01, 100)


def test_nothing_is_promised_before_two_steps() -> None:
    assert estimate_eta([], 10) is None
    assert estimate_eta([1.0], 10) is None


def test_equal_steps_leave_no_uncertainty() -> None:
    assert estimate_eta([2.0] * 5, 10) == (20.0, 20.0, 20.0)
    assert estimate_eta([2.0, 3.0], 0) == (0.0, 0.0, 0.0)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=50), st.integers(0, 1000))
def test_the_rest_is_a_band_around_the_mean(seconds: list[float], left: int) -> None:
    rest = estimate_eta(seconds, left)

    assert rest is not None
    assert 0 <= rest.low <= rest.expected <= rest.high
    assert rest.expected == pytest.approx(left * sum(seconds) / len(seconds))


def test_the_band_narrows_as_steps_come_in() -> None:
    widths = []
    for count in (2, 8, 32, 128):
        rest = estimate_eta([1.0, 2.0] * (count // 2), 100)
        assert rest is not None
        widths.append(rest.high - rest.low)

    assert widths == sorted(widths, reverse=True)


INTERRUPTIONS = st.builds(
    Interruptions, st.lists(SECONDS, max_size=20), st.integers(0, 50), SECONDS
)


@given(
    st.lists(SECONDS, min_size=2, max_size=50),
    st.integers(0, 1000),
    st.lists(INTERRUPTIONS, max_size=2),
    st.floats(0, 1000),
)
def test_an_eta_with_interruptions_is_a_band_and_never_below_the_bare_steps(
    seconds: list[float], left: int, interruptions: list[Interruptions], closing: float
) -> None:
    bare = estimate_eta(seconds, left)
    whole = estimate_eta(seconds, left, interruptions, closing)

    assert bare is not None
    assert whole is not None
    assert 0 <= whole.low <= whole.expected <= whole.high
    assert whole.expected >= bare.expected
    assert whole.high >= bare.high


def test_evaluations_and_checkpoints_to_come_are_counted() -> None:
    evaluations = Interruptions([30.0, 30.0], 2, 1.0)
    checkpoints = Interruptions([], 3, 2.0)

    assert estimate_eta([1.0] * 5, 10, [evaluations]) == (70.0, 70.0, 70.0)
    assert estimate_eta([1.0] * 5, 10, [checkpoints]) == (10.0, 16.0, 22.0), (
        "not measured: none at all to twice as long"
    )
    assert estimate_eta([1.0] * 5, 0, [], 8.0) == (4.0, 8.0, 12.0)


def test_one_measured_interruption_leaves_uncertainty() -> None:
    rest = estimate_eta([1.0] * 5, 10, [Interruptions([4.0], 1, 1.0)])

    assert rest is not None
    assert (rest.expected, rest.low < 14.0 < rest.high) == (14.0, True)


@given(st.integers(1, 60), st.integers(0, 200), st.integers(0, 200))
def test_the_remaining_evaluations_equal_those_of_a_loop(every: int, step: int, more: int) -> None:
    total = step + more

    assert num_left(every, step, total) == sum(
        1 for k in range(step + 1, total + 1) if k % every == 0 or k == total
    )
