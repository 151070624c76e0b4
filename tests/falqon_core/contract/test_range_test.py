import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from falqon_core.contract.range_test import (
    NUM_STEPS,
    SPAN,
    RangePoint,
    has_diverged,
    propose_rate,
    rate_of_step,
)

FIRST_LOSS = 2.0


def points(
    change_at: Callable[[float], float], num_points: int = NUM_STEPS - 1
) -> list[RangePoint]:
    """The points of a test around 1e-3; `change_at` gets the decades above it."""
    rates = [rate_of_step(1e-3, step) for step in range(num_points)]
    return [
        RangePoint(learning_rate=rate, loss_change=change_at(math.log10(rate / 1e-3)))
        for rate in rates
    ]


def test_rates_rise_by_one_factor_around_the_middle() -> None:
    rates = [rate_of_step(1e-3, step) for step in range(NUM_STEPS)]
    assert rates[0] == pytest.approx(1e-3 / SPAN)
    assert rates[-1] == pytest.approx(1e-3 * SPAN)
    factors = [after / before for before, after in pairwise(rates)]
    assert factors == pytest.approx([factors[0]] * (NUM_STEPS - 1))


def test_half_of_the_rate_of_the_lowest_loss_is_proposed() -> None:
    result = propose_rate(points(lambda x: (x - 1) ** 2 / 2 - 1), FIRST_LOSS, diverged=True)
    assert result.outcome == "found"
    assert result.proposal == pytest.approx(5e-3, rel=0.25)
    assert result.proposal == float(f"{result.proposal:.2g}"), "two digits"
    assert f"{result.proposal:g} is proposed" in result.message


def test_one_lucky_batch_is_not_the_lowest_loss() -> None:
    curve = points(lambda x: (x - 1) ** 2 / 2 - 1)
    lucky = curve[3].model_copy(update={"loss_change": -1.2})
    result = propose_rate([*curve[:3], lucky, *curve[4:]], FIRST_LOSS, diverged=True)
    assert result.proposal == pytest.approx(5e-3, rel=0.5)


def test_a_loss_that_still_falls_at_the_end_says_so() -> None:
    result = propose_rate(points(lambda x: -0.3 - 0.2 * x), FIRST_LOSS, diverged=False)
    assert result.outcome == "still_falling"
    assert result.proposal == pytest.approx(SPAN * 5e-4, rel=0.5)


@pytest.mark.parametrize(
    "change_at", [lambda x: 0.0, lambda x: -0.01, lambda x: 0.1 * math.sin(50 * x)]
)
def test_a_flat_curve_has_no_proposal(change_at: Callable[[float], float]) -> None:
    result = propose_rate(points(change_at), FIRST_LOSS, diverged=False)
    assert (result.outcome, result.proposal) == ("flat", None)
    assert "did not fall by more than its noise" in result.message


def test_a_flat_curve_that_diverges_above_the_middle_is_flat() -> None:
    exploding = points(lambda x: 0.0 if x < 0.9 else 5 * (x - 0.9), 18)
    assert propose_rate(exploding, FIRST_LOSS, diverged=True).outcome == "flat"


@pytest.mark.parametrize("num_points", [0, 1, 4])
def test_a_loss_that_diverges_at_once_has_no_proposal(num_points: int) -> None:
    rising = points(lambda x: 3 * (x + 2) ** 2, num_points)
    result = propose_rate(rising, FIRST_LOSS, diverged=True)
    assert (result.outcome, result.proposal) == ("diverging", None)
    assert len(result.points) == num_points


def test_no_proposal_is_above_the_bound_of_a_learning_rate() -> None:
    rates = [rate_of_step(1.0, step) for step in range(NUM_STEPS - 1)]
    falling = [RangePoint(learning_rate=rate, loss_change=-rate / 30) for rate in rates]
    assert propose_rate(falling, FIRST_LOSS, diverged=False).proposal == 1.0


def test_a_loss_has_diverged_once_it_is_above_that_of_no_step() -> None:
    assert not has_diverged([], FIRST_LOSS)
    assert not has_diverged([-0.5, -0.2, 0.4], FIRST_LOSS), "one bad batch"
    assert has_diverged([-0.5, 0.3, 0.4], FIRST_LOSS)
