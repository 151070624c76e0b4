"""NF4 (QLoRA, arXiv 2305.14314) of blocks that may be shifted first (IR-QLoRA, arXiv 2402.05445).

A weight is `value of code * scale + shift`, with a scale and a shift for each 64 weights along the
flattened tensor. The scale is the largest magnitude of the shifted block, and the code that of the
nearest of 16 values. Shifts are stored in 8 bits, and so are scales, less their mean: 0.53 bytes a
weight. With shifts of zero it is QLoRA's NF4 with double quantization.

Two codes lie in a byte, the first in the high half. A last block that is not whole is filled with
its last weight.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from falqon_core.ops.formats.dynamic8 import Dynamic8, dequantize_dynamic8, quantize_dynamic8
from falqon_core.ops.quantize import row_blocks

BLOCK_SIZE = 64
# Quantiles of the normal distribution, asymmetric so that zero is exact; as published, in fp32.
VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class Nf4(NamedTuple):
    """A weight in NF4: codes uint8 [ceil(O I / 64), 32]; for each block a scale, less `mean_scale`
    (fp32 [1]), and a shift.
    """

    codes: Tensor
    scales: Dynamic8
    mean_scale: Tensor
    shifts: Dynamic8


def nf4_blocks(weight: Tensor) -> Tensor:
    """Return a copy of a weight of any shape as fp32 [N, 64]."""
    flat = weight.flatten().float()
    missing = -len(flat) % BLOCK_SIZE
    return torch.cat([flat, flat[-1:].expand(missing)]).view(-1, BLOCK_SIZE)


def nf4_edges(device: torch.device) -> Tensor:
    """Return the limits between neighbouring values, fp32 [15]."""
    values = torch.tensor(VALUES, device=device)
    return (values[1:] + values[:-1]) / 2


def quantize_nf4(weight: Tensor, shifts: Tensor) -> Nf4:
    """Round a weight [O, I] of any float dtype, with the shifts of its blocks fp32 [N]."""
    blocks = nf4_blocks(weight).sub_(shifts[:, None])
    scales = blocks.abs().amax(1)
    blocks.div_(scales.clamp_min(1e-30)[:, None])
    # int32 [N, 64]: the nearest of 16 values, by the limits between them.
    codes = torch.bucketize(blocks, nf4_edges(weight.device), out_int32=True)
    first, second = codes.to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    # In fp64 the order of the sum does not matter.
    mean = scales.mean(0, keepdim=True, dtype=torch.float64).float()
    return Nf4(
        first << 4 | second, quantize_dynamic8(scales - mean), mean, quantize_dynamic8(shifts)
    )


def dequantize_nf4(weight: Nf4, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return the weight of `shape` in `dtype`, rounded to it once."""
    pairs = _pairs(weight.codes.device)
    # fp32 [N, 1]: the mean is stored apart, so that 8 bits describe deviations.
    scales = (dequantize_dynamic8(weight.scales) + weight.mean_scale)[:, None]
    shifts = dequantize_dynamic8(weight.shifts)[:, None]
    blocks = torch.empty(len(scales), BLOCK_SIZE, dtype=dtype, device=scales.device)
    for rows in row_blocks(blocks.shape):
        values = pairs.index_select(0, weight.codes[rows].view(-1).int()).view(torch.float32)
        blocks[rows] = values.view(-1, BLOCK_SIZE).mul_(scales[rows]).add_(shifts[rows])
    return blocks.view(-1)[: shape.numel()].view(shape)


@cache
def _pairs(device: torch.device) -> Tensor:
    """Return the two values of each byte of codes, as complex64 [256]: one look-up gives two
    weights.
    """
    values = torch.tensor(VALUES)
    byte = torch.arange(256)
    return torch.complex(values[byte >> 4], values[byte & 15]).to(device)
