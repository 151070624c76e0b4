"""Rows times the frozen weights of the experts that they go to, dequantized for the product.

The rows of an expert lie together. The oracle takes one expert after the other, and reads on the
host how many rows each has. torch's grouped product, where a GPU has one, takes all at once and
makes the host wait for nothing; it needs all experts of a layer dequantized, for a moment.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from falqon_core.importers import mxfp4
from falqon_core.ops.dispatch import operator
from falqon_core.ops.matmul import matmul
from falqon_core.ops.quantize import dequantize
from falqon_core.ops.samples import Draw, SampleInput, result_alone

ALIGNED = 8  # bf16 elements of 16 bytes, by which rows of operands are aligned
MXFP4_WEIGHTS = 2**26  # decoded at once: what passes through another form is 128 MiB


@operator
def grouped_product(
    x: Tensor, codes: Tensor, scale: Tensor, ends: Tensor, backward: bool = False
) -> Tensor:
    """Return each row of x [N, I] times its expert's weight [O, I], transposed; [N, O].

    Expert e has the rows before `ends`[e], int32 [E], and from the end of the one before on. codes
    and scale [E, O, ..] are e4m3 and fp32 by row, or MXFP4. With `backward` x is [N, O], and the
    weight is not transposed.
    """
    lengths = ends.diff(prepend=ends.new_zeros(1)).tolist()
    parts = [
        matmul(rows, weight if backward else weight.t())
        for expert, rows in enumerate(x.split(lengths))
        if len(rows)
        for weight in [expert_values(codes[expert], scale[expert], x.dtype)]
    ]
    return torch.cat(parts)


def expert_values(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights [.., O, I] of experts; exact in bf16 and fp32."""
    if codes.dtype != torch.uint8:
        return dequantize(codes, scale, dtype)
    rows, scales = codes.flatten(0, -2), scale.flatten(0, -2)
    num_rows = max(1, MXFP4_WEIGHTS // (2 * rows.shape[1]))
    values = rows.new_empty(len(rows), 2 * rows.shape[1], dtype=dtype)
    parts = (each.split(num_rows) for each in (values, rows, scales))
    for part, own_codes, own_scales in zip(*parts, strict=True):
        part.copy_(mxfp4.decode(own_codes, own_scales, dtype))
    return values.unflatten(0, codes.shape[:-1])


def grouped_mm(
    x: Tensor, codes: Tensor, scale: Tensor, ends: Tensor, backward: bool = False
) -> Tensor:
    """Compute `grouped_product` by torch's; shapes that it does not take are left to the oracle.

    Scales of rows are powers of two, so they multiply outputs or gradients as exactly as weights.
    """
    is_mxfp4 = codes.dtype == torch.uint8
    sizes = codes.shape[1], codes.shape[2] * (2 if is_mxfp4 else 1)
    if x.dtype != torch.bfloat16 or any(size % ALIGNED for size in sizes):
        return grouped_product.oracle(x, codes, scale, ends, backward)
    if is_mxfp4:
        weights = expert_values(codes, scale, x.dtype)
        return F.grouped_mm(x.contiguous(), weights if backward else weights.mT, offs=ends)
    weights = codes.to(x.dtype)
    experts = torch.searchsorted(ends, torch.arange(len(x), device=x.device), right=True)
    row_scale = scale.to(x.dtype).squeeze(2)[experts]
    if backward:
        return F.grouped_mm(x * row_scale, weights, offs=ends)
    return F.grouped_mm(x.contiguous(), weights.mT, offs=ends).mul_(row_scale)


@grouped_product.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    ends = torch.tensor([3, 3, 20, 21], dtype=torch.int32, device=draw.device)
    codes, scale = draw.codes(4, 48, 64), draw.scales(4, 48, 1)
    packed = draw.codes(4, 48, 32).view(torch.uint8)
    exponents = (draw.scales(4, 48, 2).log2() + mxfp4.BIAS).to(torch.uint8)
    for weights in ((codes, scale), (packed, exponents)):
        yield SampleInput((draw.normal(21, 64), *weights, ends), result_alone)
        yield SampleInput((draw.normal(21, 48), *weights, ends, True), result_alone)


if hasattr(F, "grouped_mm"):
    grouped_product.kernels["cuda"] = grouped_mm
