"""INT4 in groups along the input: weight = d * code + m, code 0 to 15, with a step d and a minimum
m for each group.

Codes are rounded to nearest against d and m as they are stored, in fp16: what GGUF calls Q4_1 where
a group has 32 weights. Two codes lie in a byte: element i of a group in the low half, element i +
group_size / 2 in the high half. d * code is exact in fp32, so a weight is rounded once, to fp32 in
the sum with m, before it is cast to the working dtype.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from falqon_core.ops.quantize import divide, row_blocks

LARGEST_CODE = 15
_LEAST_STEP = 2.0**-24  # fp16's; smaller ones are stored as zero, which every code is right for


class Int4(NamedTuple):
    """A weight in groups: codes uint8 [O, G, group_size / 2], steps d and minima m fp16 [O, G]."""

    codes: Tensor
    steps: Tensor
    minima: Tensor


def quantize_int4(weight: Tensor, group_size: int) -> Int4:
    """Round a weight [O, I] of any float dtype; `group_size` is even and divides I. Each group's
    smallest weight becomes code 0, its largest code 15.
    """
    parts = []
    for rows in row_blocks(weight.shape):
        groups = weight[rows].float().unflatten(1, (-1, group_size))
        low, high = groups.aminmax(dim=-1)
        parts.append(round_to_int4(groups, divide(high - low, LARGEST_CODE).half(), low.half()))
    return Int4(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def round_to_int4(groups: Tensor, steps: Tensor, minima: Tensor) -> Int4:
    """Round groups fp32 [O, G, group_size] to codes of the given steps and minima, fp16 [O, G]."""
    offset = groups.sub(minima.float()[..., None])
    codes = offset.div_(steps.float().clamp_min_(_LEAST_STEP)[..., None])
    # Two codes a byte: the first half of a group in the low bits, the second in the high ones.
    first, second = codes.round_().clamp_(0, LARGEST_CODE).to(torch.uint8).chunk(2, dim=-1)
    return Int4(first | (second << 4), steps, minima)


def dequantize_int4(weight: Int4, dtype: torch.dtype) -> Tensor:
    """Return the weight [O, I] in `dtype`."""
    num_rows, num_groups, half = weight.codes.shape
    values = torch.empty(num_rows, num_groups * 2 * half, dtype=dtype, device=weight.codes.device)
    for rows in row_blocks(values.shape):
        codes = weight.codes[rows]
        # fp32 [rows, G, group_size]
        block = torch.cat([codes & LARGEST_CODE, codes >> 4], dim=-1).float()
        block.mul_(weight.steps[rows].float()[..., None])
        block.add_(weight.minima[rows].float()[..., None])
        values[rows] = block.flatten(1)
    return values


def q4_1_blocks(weight: Int4) -> Tensor:
    """Return a weight in groups of 32 as GGUF's Q4_1 blocks, uint8 [O, 20 I / 32]: d, m, codes."""
    parts = (weight.steps, weight.minima)
    heads = [part.contiguous().view(torch.uint8).unflatten(1, (-1, 2)) for part in parts]
    return torch.cat([*heads, weight.codes], dim=-1).flatten(1)
