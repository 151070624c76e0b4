"""RMSNorm whose weight is frozen: y = x / rms(x) * weight over the last axis, and its gradient with
respect to x only.

Kept for backward: x and one fp32 number per row. The rounding is that of transformers' modules: x /
rms(x) is rounded to x's dtype before the weight is applied, so outputs are bit-equal on the way
forward. Autograd through the module's own operations costs 1.1 ms backward at [820, 576] on two
cores, this one a third.

On a GPU one program holds one row in registers, so x is read once; the kernels round where the
oracles do and differ from them only in the order in which a row is summed in fp32. `rms_norm_codes`
also adds the residual before and quantizes after, which saves an FP8 GPU two trips of the
activations through memory. What is given up: no gradient for the weight, and rows longer than
`MAX_BLOCK` (wider than the models we know) are left to the oracle.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    CVT_E4M3,
    MAX_BLOCK,
    Build,
    block_of,
    jit,
    load_row,
    round_to,
    rows_of,
    tl,
    warps_of,
)
from falqon_core.ops.quantize import quantize_codes, store_codes
from falqon_core.ops.rms_norm_backward import rms_norm_backward
from falqon_core.ops.samples import Draw, SampleInput, all_results, codes_first


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute the oracle, differentiable by autograd: x [..., H] in any dtype, weight [H] -> [...,
    H] in x's dtype.
    """
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


@operator
def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (y [..., H] in x's dtype, 1 / rms fp32 [..., 1])."""
    x32 = x.float()
    inverse_rms = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (x32 * inverse_rms).to(x.dtype), inverse_rms


@rms_norm_forward.tried_on
def _forward_samples(draw: Draw) -> Iterator[SampleInput]:
    yield SampleInput((draw.normal(9, 208), draw.normal(208), 1e-5), all_results)


@operator
def rms_norm_codes(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (qdata float8_e4m3fn [T, H], scale fp32 [T, 1], total [T, H] in x's dtype, 1 / rms
    fp32 [T, 1]).

    total = x + residual, or x itself where there is none; codes * scale is rms_norm(total)
    quantized per token. x, residual [T, H] and weight [H] of one dtype. The gradient with respect
    to total is `rms_norm_backward(grad_output, total, weight, 1 / rms)`.
    """
    total = x if residual is None else x + residual
    y, inverse_rms = rms_norm_forward.oracle(total, weight, eps)
    return *quantize_codes.oracle(y), total, inverse_rms


@rms_norm_codes.tried_on
def _codes_samples(draw: Draw) -> Iterator[SampleInput]:
    for residual in (None, draw.normal(9, 208)):
        yield SampleInput((draw.normal(9, 208), residual, draw.normal(208), 1e-5), codes_first)


@jit
def rms_norm_forward_kernel(
    x,
    residual,
    weight,
    total,
    inverse_rms,
    y,
    scale,
    eps,
    x_stride,
    residual_stride,
    HAS_RESIDUAL: tl.constexpr,
    TO_CODES: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Norm one row a program. y holds codes or x's dtype; `total` is written with a residual only,
    `scale` with codes.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < NUM_COLUMNS
    value = load_row(x, row, x_stride, columns, NUM_COLUMNS)
    dtype: tl.constexpr = value.dtype
    value = value.to(tl.float32)
    if HAS_RESIDUAL:
        value += load_row(residual, row, residual_stride, columns, NUM_COLUMNS).to(tl.float32)
        # The sum is stored in bf16, and that rounded sum is normed, as two modules would do.
        rounded = round_to(value, dtype)
        tl.store(total + row * NUM_COLUMNS + columns, rounded, mask=inside)
        value = rounded.to(tl.float32)
    # Columns beyond the row are zero and add nothing; the mean is over the real ones.
    inverse = tl.rsqrt(tl.sum(value * value) / NUM_COLUMNS + eps)
    tl.store(inverse_rms + row, inverse)
    # Rounded before the weight is applied, as in transformers' modules.
    normed = round_to(value * inverse, dtype).to(tl.float32)
    result = round_to(
        normed * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32), dtype
    )
    if TO_CODES:
        store_codes(result.to(tl.float32), y, scale, row, columns, NUM_COLUMNS)
    else:
        tl.store(y + row * NUM_COLUMNS + columns, result, mask=inside)


def _launch_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    total: Tensor,
    y: Tensor,
    scale: Tensor | None,
    eps: float,
) -> Tensor:
    """Norm rows [R, H] and return 1 / rms, fp32 [R, 1]; the other outputs are written in place."""
    inverse_rms = torch.empty(x.shape[0], 1, device=x.device)
    block = block_of(x.shape[1])
    # A kernel takes no None: without a residual the pointer is any tensor and never read.
    residual_rows, residual_stride = x, 0
    if residual is not None:
        residual_rows, residual_stride = residual, residual.stride(0)
    rms_norm_forward_kernel[(x.shape[0],)](
        x,
        residual_rows,
        weight,
        total,
        inverse_rms,
        y,
        inverse_rms if scale is None else scale,
        eps,
        x.stride(0),
        residual_stride,
        HAS_RESIDUAL=residual is not None,
        TO_CODES=scale is not None,
        NUM_COLUMNS=x.shape[1],
        BLOCK=block,
        num_warps=warps_of(block),
    )
    return inverse_rms


def rms_norm_forward_triton(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Launch the kernel; the oracle computes rows longer than `MAX_BLOCK`."""
    if x.shape[-1] > MAX_BLOCK:
        return rms_norm_forward.oracle(x, weight, eps)
    rows = rows_of(x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inverse_rms = _launch_forward(rows, None, weight, rows, y, None, eps)
    return y, inverse_rms.view(*x.shape[:-1], 1)


def rms_norm_codes_triton(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel; the oracle computes rows longer than `MAX_BLOCK`."""
    if x.shape[-1] > MAX_BLOCK:
        return rms_norm_codes.oracle(x, residual, weight, eps)
    qdata = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.shape[0], 1, device=x.device)
    total = x if residual is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inverse_rms = _launch_forward(
        rows_of(x),
        None if residual is None else rows_of(residual),
        weight,
        total,
        qdata,
        scale,
        eps,
    )
    return qdata, scale, total, inverse_rms


rms_norm_forward.kernels["cuda"] = rms_norm_forward_triton
rms_norm_codes.kernels["cuda"] = rms_norm_codes_triton

_FORWARD = dict.fromkeys(("x", "residual", "weight", "total", "y"), "*bf16") | dict.fromkeys(
    ("inverse_rms", "scale"), "*fp32"
)
_FORWARD |= {"eps": "fp32", "x_stride": "i32", "residual_stride": "i32"}
_FORWARD |= dict.fromkeys(("HAS_RESIDUAL", "TO_CODES", "NUM_COLUMNS", "BLOCK"), "constexpr")
_WIDTH: dict[str, Any] = {"NUM_COLUMNS": 4096, "BLOCK": 4096}
BUILDS = [
    Build(
        rms_norm_forward_kernel,
        _FORWARD,
        {"HAS_RESIDUAL": False, "TO_CODES": False} | _WIDTH,
        num_warps=warps_of(4096),
    ),
    Build(
        rms_norm_forward_kernel,
        _FORWARD | {"y": "*fp8e4nv"},
        {"HAS_RESIDUAL": True, "TO_CODES": True} | _WIDTH,
        ptx=(CVT_E4M3,),
        num_warps=warps_of(4096),
    ),
]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse_rms = rms_norm_forward(x, weight, eps)
        # x [.., H] is kept anyway by what made it; 1 / rms is one fp32 number a row.
        ctx.save_for_backward(x, weight, inverse_rms)
        return y

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return rms_norm_backward(grad_output, *ctx.saved_tensors), None, None


class RMSNorm(nn.Module):
    """A module that stands in for a transformers RMSNorm; its parameter has the same name in a
    state dict.
    """

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed x, [.., H] in x's dtype."""
        return _RMSNorm.apply(x, self.weight, self.eps)
