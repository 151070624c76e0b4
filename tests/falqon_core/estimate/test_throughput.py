from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from falqon_core.estimate.throughput import LEAST_FACTOR, ThroughputSample, throughput


def test_nothing_measured_is_nothing_known() -> None:
    assert throughput([]) is None


def test_the_median_ignores_one_attempt_that_went_wrong() -> None:
    rate_band = throughput(
        [ThroughputSample(rate, None) for rate in (100.0, 101.0, 99.0, 100.0, 1.0)]
    )

    assert rate_band is not None
    assert (rate_band.n, rate_band.tokens_per_second.median, rate_band.overhead_seconds) == (
        5,
        100.0,
        None,
    )
    assert rate_band.tokens_per_second.factor < 1.2


def test_the_band_narrows_with_the_number_of_attempts() -> None:
    factors = [
        throughput([ThroughputSample(100.0, 1.0)] * n).tokens_per_second.factor
        for n in (1, 2, 4, 100)
    ]

    assert factors[0] == 1.5
    assert all(wide > narrow for wide, narrow in pairwise(factors))
    assert factors[-1] == LEAST_FACTOR


def test_differing_attempts_widen_the_throughput_band() -> None:
    even, uneven = (
        throughput([ThroughputSample(rate, None) for rate in rates])
        for rates in ((100.0,) * 4, (50.0, 80.0, 120.0, 200.0))
    )

    assert uneven.tokens_per_second.factor > 1.5 * even.tokens_per_second.factor


@given(
    st.lists(
        st.builds(ThroughputSample, st.floats(1e-3, 1e7), st.none() | st.floats(0, 1e6)),
        min_size=1,
        max_size=30,
    )
)
def test_a_rate_is_between_those_measured(samples: list[ThroughputSample]) -> None:
    rate_band = throughput(samples)

    rates = [sample.tokens_per_second for sample in samples]
    assert min(rates) <= rate_band.tokens_per_second.median <= max(rates)
    assert rate_band.tokens_per_second.factor >= LEAST_FACTOR
    overheads = [
        sample.overhead_seconds for sample in samples if sample.overhead_seconds is not None
    ]
    assert (rate_band.overhead_seconds is None) == (not overheads)
