"""The authors' formulas (htqin/IR-QLoRA), which quantize every weight for every candidate, are the
oracle here.
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from falqon_core.ops.formats import icq
from falqon_core.ops.formats.int4 import dequantize_int4, quantize_int4
from falqon_core.ops.formats.nf4 import VALUES, quantize_nf4

SIGMA = 1 / 1.8481  # of the standard normal distribution at 0.9677083


def weight_of(num_rows: int, num_columns: int) -> Tensor:
    """Return weights with a few outliers, off zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(num_rows, num_columns, generator=generator) + 0.3
    return weight * torch.rand(num_rows, num_columns, generator=generator).add(0.2)


def entropy_of(codes: Tensor) -> Tensor:
    """Return the bits of each block of codes [N, n], [N]."""
    frequency = torch.stack([(codes == code).float().mean(1) for code in range(16)])
    return -(frequency * frequency.clamp_min(1e-12).log2()).sum(0)


def largest_entropy(codes_of: Callable[[float], Tensor], candidates: Iterable[float]) -> Tensor:
    return torch.stack([entropy_of(codes_of(candidate)) for candidate in candidates]).amax(0)


def test_the_shifts_of_nf4_are_those_of_the_largest_entropy() -> None:
    weight = weight_of(24, 128)
    blocks = weight.view(-1, 64)
    median = blocks.median(1, keepdim=True).values
    reach = (blocks - median).abs().amax(1, keepdim=True)

    def codes_of(factor: float) -> Tensor:
        centred = blocks - (median + factor * reach)
        scaled = centred / centred.abs().amax(1, keepdim=True)
        return (scaled[..., None] - torch.tensor(VALUES)).abs().argmin(-1)

    steps = torch.linspace(-0.1 * SIGMA, 0.1 * SIGMA, icq.NUM_CANDIDATES).tolist()
    shifts = icq.shifts_of(weight, icq.choose_shifts(weight))
    packed = quantize_nf4(weight, shifts).codes
    codes = torch.stack([packed >> 4, packed & 15], -1).flatten(1)
    entropy = entropy_of(codes)
    torch.testing.assert_close(entropy, largest_entropy(codes_of, steps), rtol=0, atol=0.02)
    assert entropy.mean() > entropy_of(codes_of(0)).mean() + 0.05
    distance = ((shifts[:, None] - median) / reach).abs()
    assert distance.max() <= 0.1001 * SIGMA


@pytest.mark.parametrize("group_size", [16, 32])
def test_the_ranges_of_int4_are_those_of_the_largest_entropy(group_size: int) -> None:
    weight = weight_of(24, 128)
    groups = weight.view(-1, group_size)
    low = groups.amin(1, keepdim=True).clamp_max(0)
    high = groups.amax(1, keepdim=True).clamp_min(0)
    step = (high - low) / 15
    zero = (-low / step).round()

    def codes_of(factor: float) -> Tensor:
        return ((groups / (step * factor)).round() + zero).clamp(0, 15)

    half = icq.NUM_CANDIDATES // 2
    wider = torch.linspace(1, 1.1, half + 1).tolist()
    narrower = torch.linspace(1, 0.9, half + 1).tolist()
    quantized = icq.quantize_ranges(weight, group_size, icq.choose_ranges(weight, group_size))
    codes = torch.cat([quantized.codes & 15, quantized.codes >> 4], -1).flatten(0, 1)
    entropy = entropy_of(codes)
    expected = largest_entropy(codes_of, wider + narrower)
    # steps in fp16 move a weight across an edge here and there
    assert (entropy - expected).abs().mean() < 0.02
    assert entropy.mean() > entropy_of(codes_of(1)).mean() + 0.05
    result = dequantize_int4(quantized, torch.float32)
    nearest = dequantize_int4(quantize_int4(weight, group_size), torch.float32)
    errors = (result - weight).norm(), (nearest - weight).norm()
    assert errors[1] < errors[0] < 2 * errors[1]


def test_of_equal_entropies_the_first_is_taken() -> None:
    blocks = torch.arange(32.0).view(2, 16)
    edges = blocks[:, :15] + 0.5
    choice = icq.choose_largest_entropy(blocks, lambda shift: edges + shift, [9.0, 0.1, 0.2, 9.0])
    assert choice.tolist() == [1, 1]


def test_weights_that_are_all_the_same_have_a_choice() -> None:
    weight = torch.full((2, 64), 0.5)
    shifts = icq.shifts_of(weight, icq.choose_shifts(weight))
    assert torch.equal(shifts, torch.full((2,), 0.5))
    for same in (weight, torch.zeros(2, 64)):
        quantized = icq.quantize_ranges(same, 32, icq.choose_ranges(same, 32))
        torch.testing.assert_close(
            dequantize_int4(quantized, torch.float32), same, rtol=0.11, atol=0
        )
