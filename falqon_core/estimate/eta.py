"""The time left of a running training, from the measurements of this attempt alone: a machine that
becomes slower counts as its slower steps arrive.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

CLOSING_UNCERTAINTY = 0.5  # The share of the closing seconds that the band adds on both sides.


class Eta(NamedTuple):
    """Seconds left, with a band."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Interruptions:
    """Interruptions of one kind between steps: evaluations, or checkpoints.

    `assumed`: the seconds of one as long as none has been measured; the band then reaches from none
    at all to twice as much.
    """

    measured: Sequence[float]
    left: int
    assumed: float


def estimate_eta(
    step_seconds: Sequence[float],
    steps_left: int,
    interruptions: Sequence[Interruptions] = (),
    closing_seconds: float = 0.0,
) -> Eta | None:
    """Return the time left, from the measured seconds of this attempt's latest steps; None before
    two steps are known.

    Expected: the mean of each part times its remaining number. The band: two standard errors of the
    sum of so many such parts, plus the uncertainty of their mean itself; it narrows as they come in
    and never promises more than they support. `closing_seconds`: the time after the last step, from
    earlier attempts.
    """
    if len(step_seconds) < 2:
        return None
    parts = [_sum_of(step_seconds, steps_left), *map(_interruptions, interruptions)]
    expected = sum(part.expected for part in parts) + closing_seconds
    spread = sum(part.spread for part in parts) + CLOSING_UNCERTAINTY * closing_seconds
    return Eta(max(0.0, expected - spread), expected, expected + spread)


def num_left(every: int, step: int, total_steps: int) -> int:
    """Return the number of steps after `step` that are a multiple of `every` or the last one."""
    multiples = total_steps // every - step // every
    ends_between = step < total_steps and total_steps % every != 0
    return multiples + ends_between


@dataclass(frozen=True)
class _Sum:
    expected: float
    spread: float


def _interruptions(kind: Interruptions) -> _Sum:
    if kind.left == 0:
        return _Sum(0.0, 0.0)
    if not kind.measured:
        assumed = kind.assumed * kind.left
        return _Sum(assumed, assumed)
    return _sum_of(kind.measured, kind.left)


def _sum_of(measured: Sequence[float], left: int) -> _Sum:
    """Return the expected sum of `left` more of them. A single measurement has no deviation; half
    of it is taken.
    """
    mean = statistics.fmean(measured)
    deviation = statistics.stdev(measured) if len(measured) > 1 else mean / 2
    return _Sum(mean * left, 2 * deviation * (left**0.5 + left / len(measured) ** 0.5))
