"""The gradient of RMSNorm (rms_norm.py) with respect to its input, and the additions and casts
after it.

A norm's input also goes past it, so that two gradients meet there. On a GPU one program holds one
row in registers; it adds the other gradient and, for the linear before the norm, quantizes the sum,
which saves an FP8 GPU four trips of the activations through memory. The kernel rounds where the
oracles do and differs from them only in the order in which a row is summed in fp32. What is given
up: rows longer than `MAX_BLOCK` are left to the oracles.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

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
from falqon_core.ops.samples import Draw, SampleInput, codes_last, result_alone


@operator
def rms_norm_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    grad_residual: Tensor | None = None,
) -> Tensor:
    """Return grad_input [..., H] = (g - n * mean(g * n)) / rms, with n = x / rms and g =
    grad_output * weight, in fp32 inside.

    grad_residual [..., H] is the gradient that reaches x past the norm; it is added to the rounded
    gradient.
    """
    # bf16 [.., H] times fp32 [.., 1] is fp32.
    normed = x * inverse_rms
    grad = (grad_output * weight).float()
    # fp32 [.., 1]
    mean = torch.linalg.vecdot(grad, normed).unsqueeze(-1).div_(x.shape[-1])
    grad_input = grad.addcmul_(normed, mean, value=-1).mul_(inverse_rms).to(x.dtype)
    return grad_input if grad_residual is None else grad_input.add_(grad_residual)


@operator
def rms_norm_backward_codes(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    grad_residual: Tensor,
    column_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (grad_input [T, H] of `rms_norm_backward`, qdata float8_e4m3fn [T, H], scale fp32 [T,
    1]).

    The codes are of grad_input * column_scale (fp32 [H]), per token, as `quantize_codes` makes
    them: the operand of grad_input's GEMM for the linear before the norm.
    """
    grad_input = rms_norm_backward.oracle(grad_output, x, weight, inverse_rms, grad_residual)
    return grad_input, *quantize_codes.oracle(grad_input, column_scale)


def _backward_arguments(draw: Draw) -> tuple[Tensor, ...]:
    grad_output, x, weight = draw.normal(9, 208), draw.normal(9, 208), draw.normal(208)
    return grad_output, x, weight, x.float().square().mean(-1, keepdim=True).rsqrt()


@rms_norm_backward.tried_on
def _backward_samples(draw: Draw) -> Iterator[SampleInput]:
    for grad_residual in (None, draw.normal(9, 208)):
        yield SampleInput((*_backward_arguments(draw), grad_residual), result_alone)


rms_norm_backward_codes.tried_on(
    lambda draw: [
        SampleInput(
            (*_backward_arguments(draw), draw.normal(9, 208), draw.scales(208)),
            codes_last,
        )
    ]
)


@jit
def rms_norm_backward_kernel(
    grad_output,
    x,
    weight,
    inverse_rms,
    residual,
    column_scale,
    grad_input,
    qdata,
    scale,
    grad_stride,
    x_stride,
    residual_stride,
    HAS_RESIDUAL: tl.constexpr,
    TO_CODES: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one row a program; `qdata` and `scale` are written with `TO_CODES` only."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < NUM_COLUMNS
    value = load_row(x, row, x_stride, columns, NUM_COLUMNS)
    dtype: tl.constexpr = value.dtype
    inverse = tl.load(inverse_rms + row)
    # The quotient x / rms stays in fp32: it is not the rounded value of forward.
    normed = value.to(tl.float32) * inverse
    grad = load_row(grad_output, row, grad_stride, columns, NUM_COLUMNS).to(tl.float32)
    # The product grad_output * weight is rounded to bf16, as torch's product of bf16 tensors is.
    grad = round_to(
        grad * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32), dtype
    ).to(tl.float32)
    mean = tl.sum(grad * normed) / NUM_COLUMNS
    result = round_to((grad - normed * mean) * inverse, dtype)
    if HAS_RESIDUAL:
        beside = load_row(residual, row, residual_stride, columns, NUM_COLUMNS)
        # Rounded twice, as where autograd adds two bf16 gradients.
        result = round_to(result.to(tl.float32) + beside.to(tl.float32), dtype)
    tl.store(grad_input + row * NUM_COLUMNS + columns, result, mask=inside)
    if TO_CODES:
        # fp32 [H]: scales of the rows of the weight that these codes are multiplied with.
        of_columns = tl.load(column_scale + columns, mask=inside, other=0.0)
        scaled = round_to(result.to(tl.float32) * of_columns, dtype).to(tl.float32)
        store_codes(scaled, qdata, scale, row, columns, NUM_COLUMNS)


def _launch_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    grad_residual: Tensor | None,
    to_codes: tuple[Tensor, Tensor, Tensor] | None,
) -> Tensor:
    """Launch the kernel and return grad_input [..., H]; `to_codes`: the scales of the columns, and
    the codes and scales that are written in place.
    """
    grad_input = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_rows = rows_of(grad_output)
    rows = rows_of(x)
    residual = grad_rows if grad_residual is None else rows_of(grad_residual)
    block = block_of(rows.shape[1])
    # Pointers that are not read or written without codes.
    column_scale, qdata, scale = to_codes or (inverse_rms, grad_input, inverse_rms)
    rms_norm_backward_kernel[(rows.shape[0],)](
        grad_rows,
        rows,
        weight,
        inverse_rms,
        residual,
        column_scale,
        grad_input,
        qdata,
        scale,
        grad_rows.stride(0),
        rows.stride(0),
        residual.stride(0),
        HAS_RESIDUAL=grad_residual is not None,
        TO_CODES=to_codes is not None,
        NUM_COLUMNS=rows.shape[1],
        BLOCK=block,
        num_warps=warps_of(block),
    )
    return grad_input


def rms_norm_backward_triton(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    grad_residual: Tensor | None = None,
) -> Tensor:
    """Launch the kernel; the oracle computes rows longer than `MAX_BLOCK`."""
    if x.shape[-1] > MAX_BLOCK:
        return rms_norm_backward.oracle(grad_output, x, weight, inverse_rms, grad_residual)
    return _launch_backward(grad_output, x, weight, inverse_rms, grad_residual, None)


def rms_norm_backward_codes_triton(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    grad_residual: Tensor,
    column_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; the oracle computes rows longer than `MAX_BLOCK`."""
    arguments = grad_output, x, weight, inverse_rms, grad_residual
    if x.shape[-1] > MAX_BLOCK:
        return rms_norm_backward_codes.oracle(*arguments, column_scale)
    qdata = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.shape[0], 1, device=x.device)
    to_codes = column_scale.contiguous(), qdata, scale
    return _launch_backward(*arguments, to_codes), qdata, scale


rms_norm_backward.kernels["cuda"] = rms_norm_backward_triton
rms_norm_backward_codes.kernels["cuda"] = rms_norm_backward_codes_triton

_BACKWARD = dict.fromkeys(("grad_output", "x", "weight"), "*bf16") | {"inverse_rms": "*fp32"}
_BACKWARD |= {"residual": "*bf16", "column_scale": "*fp32", "grad_input": "*bf16"}
_BACKWARD |= {"qdata": "*fp8e4nv", "scale": "*fp32"}
_BACKWARD |= dict.fromkeys(("grad_stride", "x_stride", "residual_stride"), "i32")
_BACKWARD |= dict.fromkeys(("HAS_RESIDUAL", "TO_CODES", "NUM_COLUMNS", "BLOCK"), "constexpr")
_WIDTH: dict[str, Any] = {"NUM_COLUMNS": 4096, "BLOCK": 4096}
BUILDS = [
    Build(
        rms_norm_backward_kernel,
        _BACKWARD | {"qdata": "*bf16"},
        {"HAS_RESIDUAL": True, "TO_CODES": False} | _WIDTH,
        num_warps=warps_of(4096),
    ),
    Build(
        rms_norm_backward_kernel,
        _BACKWARD,
        {"HAS_RESIDUAL": True, "TO_CODES": True} | _WIDTH,
        ptx=(CVT_E4M3,),
        num_warps=warps_of(4096),
    ),
]
