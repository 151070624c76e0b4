"""The measured rate of trainings of one kind, with a band, from the attempts of an installation.

Robust: medians, and the median distance from them; attempts are not weighted, neither by age nor by
length.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

BAND_DEVIATIONS = 2.0  # The width of the band, in robust standard deviations.
SINGLE_ATTEMPT_UNCERTAINTY = (
    0.5  # The uncertainty of a single attempt; n attempts have this share divided by n.
)
LEAST_FACTOR = 1.1  # Recipes of one method differ among themselves.
# The factor from the median distance to the standard deviation of a normal distribution.
NORMAL_MAD = 1.4826


@dataclass(frozen=True)
class ThroughputSample:
    """One attempt. The rate counts all seconds from its first step to its last, evaluations and
    checkpoints among them.

    `overhead_seconds`: all others, for staging, loading, export and upload; null for an attempt
    that did not come to its end.
    """

    tokens_per_second: float
    overhead_seconds: float | None


class MeasuredMedian(BaseModel):
    """A median; `factor`: values in the band are at most this many times larger or smaller."""

    model_config = ConfigDict(frozen=True)

    median: float
    factor: float


class Throughput(BaseModel):
    """The rate of `n` attempts."""

    model_config = ConfigDict(frozen=True)

    n: int
    tokens_per_second: MeasuredMedian
    overhead_seconds: MeasuredMedian | None


def median_sample(samples: Sequence[ThroughputSample]) -> ThroughputSample:
    """Return one sample for several."""
    overheads = [each.overhead_seconds for each in samples if each.overhead_seconds is not None]
    return ThroughputSample(
        statistics.median(each.tokens_per_second for each in samples),
        statistics.median(overheads) if overheads else None,
    )


def throughput(samples: Sequence[ThroughputSample]) -> Throughput | None:
    """Return the rate with its band; None without samples. Every rate must be above zero."""
    if not samples:
        return None
    overheads = [
        sample.overhead_seconds for sample in samples if sample.overhead_seconds is not None
    ]
    return Throughput(
        n=len(samples),
        tokens_per_second=_median_with_band([sample.tokens_per_second for sample in samples]),
        overhead_seconds=_median_with_band(overheads) if overheads else None,
    )


def _median_with_band(values: Sequence[float]) -> MeasuredMedian:
    median = statistics.median(values)
    distance = statistics.median(abs(value - median) for value in values)
    spread = NORMAL_MAD * distance / median if median else 0.0
    factor = 1 + BAND_DEVIATIONS * spread + SINGLE_ATTEMPT_UNCERTAINTY / len(values)
    return MeasuredMedian(median=median, factor=max(LEAST_FACTOR, factor))
