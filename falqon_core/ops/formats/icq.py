"""Information calibration quantization (IR-QLoRA, arXiv 2402.05445): of several ways to quantize a
block to 16 codes, the one whose codes have the largest entropy.

NF4: blocks are shifted by their median and up to 0.054 of their largest magnitude more or less.
INT4: the range of a group is made up to a tenth wider or narrower. A choice is a number below
`NUM_CANDIDATES` for each block; a checkpoint keeps it, since the search takes long.

The entropy of a block needs only how many of its weights lie below each edge between two codes. So
a block is sorted once and 15 edges are searched in it, where the authors quantize all weights for
each candidate and compare them with every code. Sums are of integers, so that equal counts in
another order are equal, on any device.

What is given up: half to three quarters of the published candidates (201 for NF4, 101 for INT4). On
a layer of SmolLM2-135M NF4's entropy is 3.605 bits at the median, 3.714 with 51 candidates and
3.717 with 201; INT4's in groups of 64 is 3.484 as it comes, 3.585 with 51 and 3.584 with 101. NF4
of all its linears takes 55 s of one core in place of 190 s.
"""

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn.functional import pad

from falqon_core.ops.formats.int4 import LARGEST_CODE, Int4, round_to_int4
from falqon_core.ops.formats.nf4 import nf4_blocks, nf4_edges
from falqon_core.ops.quantize import divide, row_blocks

NUM_CANDIDATES = 51
# The unit is the largest magnitude of a block.
_LARGEST_SHIFT = 0.1 / NormalDist().inv_cdf(0.9677083)
_LARGEST_WIDENING = 0.1
_BIT = 2**16  # One bit, in the integers that entropies are counted in.

Edges = Callable[[float], Tensor]


def choose_shifts(weight: Tensor) -> Tensor:
    """Return the choice of each block of NF4, uint8 [N]."""
    blocks = nf4_blocks(weight)
    factors = _shift_factors()
    parts = []
    for rows in row_blocks(blocks.shape):
        part = blocks[rows]
        parts.append(choose_largest_entropy(part, _edges_of_shifts(part), factors))
    return torch.cat(parts)


def shifts_of(weight: Tensor, choice: Tensor) -> Tensor:
    """Return the shift of each block of NF4, fp32 [N]."""
    median, reach = _median_and_reach(nf4_blocks(weight))
    factors = torch.tensor(_shift_factors(), device=weight.device)
    return (median + factors[choice.int()][:, None] * reach)[:, 0]


def choose_ranges(weight: Tensor, group_size: int) -> Tensor:
    """Return the choice of each group of INT4, uint8 [O, I / group_size]."""
    groups = weight.view(-1, group_size)
    factors = _range_factors()
    parts = []
    for rows in row_blocks(groups.shape):
        part = groups[rows].float()
        parts.append(choose_largest_entropy(part, _edges_of_ranges(part), factors))
    return torch.cat(parts).view(len(weight), -1)


def quantize_ranges(weight: Tensor, group_size: int, choice: Tensor) -> Int4:
    """Round a weight [O, I] of any float dtype by the chosen ranges; zero is a value of every
    group, as published.
    """
    groups = weight.float().unflatten(1, (-1, group_size))
    step, zero = _step_and_zero(groups)
    factors = torch.tensor(_range_factors(), device=weight.device)
    steps = (step[..., 0] * factors[choice.int()]).half()
    return round_to_int4(groups, steps, (-zero[..., 0] * steps.float()).half())


def choose_largest_entropy(blocks: Tensor, edges_of: Edges, candidates: list[float]) -> Tensor:
    """Return the candidate, of at most 256, that gives the codes of each block, fp32 [N, n], the
    largest entropy, the first of several: uint8 [N].

    `edges_of` a candidate are the ascending limits, fp32 [N, 15], at or below which a weight has
    one of the lower codes.
    """
    size = blocks.shape[1]
    ordered = blocks.sort(dim=1).values
    count = torch.arange(size + 1, device=blocks.device, dtype=torch.float64)
    # Entropy is log2(n), less the mean of log2(count) over the weights.
    missing_bits = (count * count.clamp_min(1).log2() * _BIT).round().int()
    choice = torch.zeros(len(blocks), dtype=torch.uint8, device=blocks.device)
    least = torch.full_like(choice, torch.iinfo(torch.int32).max, dtype=torch.int32)
    for number, candidate in enumerate(candidates):
        # int32 [N, 15]: weights at or below each edge; their differences are the counts of 16
        # codes.
        below = torch.searchsorted(ordered, edges_of(candidate), right=True, out_int32=True)
        # int32 [N, 16]
        counts = pad(below, (0, 1), value=size).sub_(pad(below, (1, 0)))
        bits = missing_bits.index_select(0, counts.view(-1)).view_as(counts)
        # Integer sums, so the order of additions changes nothing.
        missing = bits.sum(1, dtype=torch.int32)
        choice.masked_fill_(missing < least, number)
        least = torch.minimum(least, missing)
    return choice


def _shift_factors() -> list[float]:
    factors: list[float] = torch.linspace(-_LARGEST_SHIFT, _LARGEST_SHIFT, NUM_CANDIDATES).tolist()
    return factors


def _range_factors() -> list[float]:
    """Return factors in the order of the authors: none, wider, narrower."""
    steps = torch.linspace(0, _LARGEST_WIDENING, NUM_CANDIDATES // 2 + 1)
    factors: list[float] = torch.cat([1 + steps, 1 - steps[1:]]).tolist()
    return factors


def _median_and_reach(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower median of each block and the largest distance from it, fp32 [N, 1]."""
    median = blocks.median(1, keepdim=True).values
    return median, (blocks - median).abs().amax(1, keepdim=True)


def _edges_of_shifts(blocks: Tensor) -> Edges:
    median, reach = _median_and_reach(blocks)
    low = blocks.amin(1, keepdim=True)
    high = blocks.amax(1, keepdim=True)
    edges = nf4_edges(blocks.device)

    def edges_of(factor: float) -> Tensor:
        shift = median + factor * reach
        return torch.maximum(high - shift, shift - low) * edges + shift

    return edges_of


def _step_and_zero(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step of each group before it is widened, and the code of zero, fp32 [.., 1]."""
    low = groups.amin(-1, keepdim=True).clamp_max_(0)
    high = groups.amax(-1, keepdim=True).clamp_min_(0)
    step = divide(high - low, LARGEST_CODE)
    return step, (-low / step.clamp_min(1e-30)).round()


def _edges_of_ranges(groups: Tensor) -> Edges:
    step, zero = _step_and_zero(groups)
    middles = torch.arange(LARGEST_CODE, device=groups.device) + 0.5 - zero
    return lambda factor: middles * (step * factor)
