"""MXFP4 holds every weight that can be written in it, and refuses others."""

import pytest
import torch
from torch import Tensor

from falqon_core.importers.mxfp4 import decode, encode

VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def weights(low: int, high: int) -> Tensor:
    """Return random weights, 96 x 64, whose exponents lie between both."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([VALUES, -VALUES])[torch.randint(16, (96, 2, 32), generator=generator)]
    exponents = torch.randint(low, high, (96, 2, 1), generator=generator)
    return torch.ldexp(values, exponents).flatten(1).bfloat16()


@pytest.mark.parametrize(("low", "high"), [(-9, -1), (-120, -100), (100, 120)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_come_back_bit_for_bit(low: int, high: int, dtype: torch.dtype) -> None:
    weight = weights(low, high)
    # A block of zeros, and one of its smallest numbers alone.
    weight[0, :32] = 0.0
    weight[1, :32] = 0.5 * 2.0**low

    encoded = encode(weight)

    assert encoded is not None
    codes, exponents = encoded
    assert (codes.shape, exponents.shape) == ((96, 32), (96, 2))
    back = decode(codes, exponents, dtype)
    assert torch.equal(back, weight.to(dtype))
    assert torch.equal(back.signbit(), weight.signbit()), "minus zero as well"


@pytest.mark.parametrize("value", [5.0, 2.5, 0.25, 7.0, float("inf"), float("nan")])
def test_a_weight_between_is_found(value: float) -> None:
    weight = torch.zeros(1, 32, dtype=torch.bfloat16)
    weight[0, :2] = torch.tensor([4.0, value])
    assert encode(weight) is None
