import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.data.packing import pack


@given(st.lists(st.integers(1, 64)))
def test_every_index_once_and_no_bin_overfull(lengths: list[int]) -> None:
    bins = pack(lengths, 64)

    assert sorted(index for indices in bins for index in indices) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in indices) <= 64 for indices in bins)


@given(st.lists(st.integers(1, 64), min_size=1))
def test_no_two_bins_could_be_one(lengths: list[int]) -> None:
    sums = sorted(sum(lengths[index] for index in indices) for indices in pack(lengths, 64))

    assert len(sums) == 1 or sums[0] + sums[1] > 64


def test_best_fit_takes_the_fullest_bin_that_has_room() -> None:
    assert pack([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]


def test_a_length_above_the_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds the capacity"):
        pack([3, 11], 10)
