"""Causal convolutions of packed segments."""

import pytest
import torch
from torch.nn import functional as F

from falqon_core.ops.segments import causal_convolution, segment_bounds

LENGTHS = (2, 5, 1, 9)


@pytest.mark.parametrize("biased", [True, False])
def test_segments_are_convolved_apart(biased: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(sum(LENGTHS), 3), torch.randn(3, 4)
    bias = torch.randn(3) if biased else None
    bounds = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0)

    actual = causal_convolution(x, weight, bias, segment_bounds(1, len(x), bounds, x.device))

    expected = [
        F.conv1d(F.pad(part.t()[None], (3, 0)), weight[:, None], bias, groups=3)[0].t()
        for part in x.split(LENGTHS)
    ]
    torch.testing.assert_close(actual, torch.cat(expected))


def test_rows_of_a_padded_batch_are_segments() -> None:
    assert segment_bounds(3, 4, None, torch.device("cpu")).tolist() == [0, 4, 8, 12]
