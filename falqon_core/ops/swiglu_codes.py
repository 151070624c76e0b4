"""SwiGLU (swiglu.py) on codes: forward quantizes the product for the GEMM that follows, and gate
and up, which backward reads; backward quantizes both gradients.

Gate and up are the widest tensors that a layer keeps: as codes they take half of what they do in
bf16. The product is that of the unrounded ones, so rounding is seen by the gradients alone.

One program takes one row and keeps its first block in registers between the search for the scale
and the writing of codes; columns beyond, of which only rows longer than `MAX_BLOCK` have any, are
computed twice. The kernels round where the oracles do and differ from them only in the last bits of
the fp32 exponential.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    CVT_E4M3,
    Build,
    block_of,
    jit,
    power_of_two,
    power_of_two_exponent,
    round_to,
    rows_of,
    tl,
    to_e4m3,
    warps_of,
)
from falqon_core.ops.quantize import dequantize, quantize_codes
from falqon_core.ops.samples import Draw, SampleInput, codes_first
from falqon_core.ops.swiglu import (
    FORWARD_STRIDES,
    INPUT_TYPES,
    gradients_of,
    product_of,
    signature_of,
    swiglu_backward,
    swiglu_forward,
)

Codes = tuple[Tensor, Tensor]


@operator
def swiglu_codes_forward(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (qdata float8_e4m3fn [T, I], scale fp32 [T, 1]) of swiglu, per token, and (halves
    float8_e4m3fn [T, 2I], their scales fp32 [T, 2]) of gate and of up, per token and each by
    itself; gate, up [T, I] of one dtype, rows at any stride.
    """
    codes, scales = zip(*(quantize_codes.oracle(half) for half in (gate, up)), strict=True)
    # torch.cat takes no e4m3, so the bytes are joined.
    halves = torch.cat([half.view(torch.uint8) for half in codes], 1).view(torch.float8_e4m3fn)
    product = quantize_codes.oracle(swiglu_forward.oracle(gate, up))
    return *product, halves, torch.cat(scales, 1)


def forward_values(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Compare the codes of the product, of gate and of up, each times its scale."""
    qdata, scale, halves, scales = result
    return [qdata.float() * scale, *dequantize_halves(halves, scales, torch.float32)]


swiglu_codes_forward.tried_on(lambda draw: [SampleInput(draw.halves(9, 208), forward_values)])


def dequantize_halves(halves: Tensor, scales: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """Return the gate and up [T, I] that halves float8_e4m3fn [T, 2I] and scales fp32 [T, 2] stand
    for; exact in bf16 and fp32.
    """
    parts = zip(halves.chunk(2, 1), scales.split(1, 1), strict=True)
    return [dequantize(half, scale, dtype) for half, scale in parts]


@operator
def swiglu_codes_backward(
    grad_output: Tensor, halves: Tensor, scales: Tensor, weight_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (qdata float8_e4m3fn [T, 2I], scale fp32 [T, 1]) of [grad of gate | grad of up] *
    weight_scale, per token, from grad_output [T, I] and the halves of `swiglu_codes_forward`.

    That is the operand of grad_input's GEMM where gate and up are melded in one weight, whose row
    scales (fp32 [2I]) lie on its contraction axis.
    """
    gate, up = dequantize_halves(halves, scales, grad_output.dtype)
    grads = torch.cat(swiglu_backward.oracle(grad_output, gate, up), -1)
    return quantize_codes.oracle(grads, weight_scale)


@swiglu_codes_backward.tried_on
def _backward_samples(draw: Draw) -> Iterator[SampleInput]:
    halves = draw.codes(9, 416), draw.scales(9, 2)
    yield SampleInput((draw.normal(9, 208), *halves, draw.scales(416)), codes_first)


@jit
def _largest(value):
    return tl.max(tl.abs(value.to(tl.float32)))


@jit
def _load_halves(gate, up, columns, NUM_COLUMNS: tl.constexpr):
    inside = columns < NUM_COLUMNS
    value = tl.load(gate + columns, mask=inside, other=0.0)
    return value, tl.load(up + columns, mask=inside, other=0.0)


@jit
def _store_codes(value, at, exponent, inside):
    """Store value * 2^-exponent, which is exact, as codes."""
    tl.store(at, to_e4m3(value.to(tl.float32) * power_of_two(-exponent)), mask=inside)


@jit
def swiglu_codes_forward_kernel(
    gate,
    up,
    qdata,
    scale,
    halves,
    scales,
    gate_stride,
    up_stride,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute and quantize one row a program: the product, gate and up, each under its scale."""
    row = tl.program_id(0).to(tl.int64)
    gate += row * gate_stride
    up += row * up_stride
    qdata += row * NUM_COLUMNS
    halves += row * 2 * NUM_COLUMNS
    columns = tl.arange(0, BLOCK)
    # The first block stays in registers; the others are read and computed twice.
    first_gate, first_up = _load_halves(gate, up, columns, NUM_COLUMNS)
    first = product_of(first_gate, first_up)
    largest = _largest(first)
    largest_gate = _largest(first_gate)
    largest_up = _largest(first_up)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        at_gate, at_up = _load_halves(gate, up, start + columns, NUM_COLUMNS)
        largest = tl.maximum(largest, _largest(product_of(at_gate, at_up)))
        largest_gate = tl.maximum(largest_gate, _largest(at_gate))
        largest_up = tl.maximum(largest_up, _largest(at_up))
    # The scales are known once the whole row is.
    exponent = power_of_two_exponent(largest)
    exponent_gate = power_of_two_exponent(largest_gate)
    exponent_up = power_of_two_exponent(largest_up)
    tl.store(scale + row, power_of_two(exponent))
    tl.store(scales + 2 * row, power_of_two(exponent_gate))
    tl.store(scales + 2 * row + 1, power_of_two(exponent_up))
    _store_codes(first, qdata + columns, exponent, columns < NUM_COLUMNS)
    _store_codes(first_gate, halves + columns, exponent_gate, columns < NUM_COLUMNS)
    _store_codes(first_up, halves + NUM_COLUMNS + columns, exponent_up, columns < NUM_COLUMNS)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        at = start + columns
        inside = at < NUM_COLUMNS
        at_gate, at_up = _load_halves(gate, up, at, NUM_COLUMNS)
        _store_codes(product_of(at_gate, at_up), qdata + at, exponent, inside)
        _store_codes(at_gate, halves + at, exponent_gate, inside)
        _store_codes(at_up, halves + NUM_COLUMNS + at, exponent_up, inside)


@jit
def _backward_scaled(
    grad_output, halves, scale_gate, scale_up, weight_scale, columns, NUM_COLUMNS: tl.constexpr
):
    """Compute one block of both gradients times the scales of the weight's rows, as fp32."""
    inside = columns < NUM_COLUMNS
    grad = tl.load(grad_output + columns, mask=inside, other=0.0)
    dtype: tl.constexpr = grad.dtype
    # Codes times a power of two are exact, in fp32 as in bf16.
    gate = tl.load(halves + columns, mask=inside, other=0.0).to(tl.float32) * scale_gate
    up = tl.load(halves + NUM_COLUMNS + columns, mask=inside, other=0.0).to(tl.float32) * scale_up
    grad_gate, grad_up = gradients_of(grad.to(tl.float32), gate, up, dtype)
    of_gate = tl.load(weight_scale + columns, mask=inside, other=0.0)
    of_up = tl.load(weight_scale + NUM_COLUMNS + columns, mask=inside, other=0.0)
    scaled_gate = round_to(grad_gate.to(tl.float32) * of_gate, dtype)
    scaled_up = round_to(grad_up.to(tl.float32) * of_up, dtype)
    return scaled_gate.to(tl.float32), scaled_up.to(tl.float32)


@jit
def swiglu_codes_backward_kernel(
    grad_output,
    halves,
    scales,
    weight_scale,
    qdata,
    scale,
    grad_stride,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute and quantize both gradients of one row a program: 2 I columns under one scale."""
    row = tl.program_id(0).to(tl.int64)
    grad_output += row * grad_stride
    halves += row * 2 * NUM_COLUMNS
    qdata += row * 2 * NUM_COLUMNS
    scale_gate = tl.load(scales + 2 * row)
    scale_up = tl.load(scales + 2 * row + 1)
    columns = tl.arange(0, BLOCK)
    # The first block of both gradients stays in registers; the others are computed twice.
    first_gate, first_up = _backward_scaled(
        grad_output, halves, scale_gate, scale_up, weight_scale, columns, NUM_COLUMNS
    )
    largest = tl.maximum(tl.abs(first_gate), tl.abs(first_up))
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        of_gate, of_up = _backward_scaled(
            grad_output, halves, scale_gate, scale_up, weight_scale, start + columns, NUM_COLUMNS
        )
        largest = tl.maximum(largest, tl.maximum(tl.abs(of_gate), tl.abs(of_up)))
    # One scale for gate and up: their gradients are one row of the joined operand.
    exponent = power_of_two_exponent(tl.max(largest))
    tl.store(scale + row, power_of_two(exponent))
    _store_codes(first_gate, qdata + columns, exponent, columns < NUM_COLUMNS)
    _store_codes(first_up, qdata + NUM_COLUMNS + columns, exponent, columns < NUM_COLUMNS)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        at = start + columns
        of_gate, of_up = _backward_scaled(
            grad_output, halves, scale_gate, scale_up, weight_scale, at, NUM_COLUMNS
        )
        _store_codes(of_gate, qdata + at, exponent, at < NUM_COLUMNS)
        _store_codes(of_up, qdata + NUM_COLUMNS + at, exponent, at < NUM_COLUMNS)


def swiglu_codes_forward_triton(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel, one program a token."""
    gate = rows_of(gate)
    up = rows_of(up)
    num_rows, num_columns = gate.shape
    qdata = torch.empty(num_rows, num_columns, dtype=torch.float8_e4m3fn, device=gate.device)
    scale = torch.empty(num_rows, 1, device=gate.device)
    halves = qdata.new_empty(num_rows, 2 * num_columns)
    scales = scale.new_empty(num_rows, 2)
    block = block_of(num_columns)
    swiglu_codes_forward_kernel[(num_rows,)](
        gate,
        up,
        qdata,
        scale,
        halves,
        scales,
        gate.stride(0),
        up.stride(0),
        NUM_COLUMNS=num_columns,
        BLOCK=block,
        num_warps=warps_of(block),
    )
    return qdata, scale, halves, scales


def swiglu_codes_backward_triton(
    grad_output: Tensor, halves: Tensor, scales: Tensor, weight_scale: Tensor
) -> Codes:
    """Launch the kernel, one program a token; all but grad_output are contiguous."""
    grad = rows_of(grad_output)
    num_rows, num_columns = grad.shape
    qdata = torch.empty_like(halves)
    scale = torch.empty(num_rows, 1, device=grad.device)
    block = block_of(num_columns)
    swiglu_codes_backward_kernel[(num_rows,)](
        grad,
        halves,
        scales,
        weight_scale,
        qdata,
        scale,
        grad.stride(0),
        NUM_COLUMNS=num_columns,
        BLOCK=block,
        num_warps=warps_of(block),
    )
    return qdata, scale


swiglu_codes_forward.kernels["cuda"] = swiglu_codes_forward_triton
swiglu_codes_backward.kernels["cuda"] = swiglu_codes_backward_triton


class _RoundedSwiGLU(torch.autograd.Function):
    """(gate, up [.., I]) -> [.., I], with the gradients of gate and up as codes."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        rows = [half.reshape(-1, half.shape[-1]) for half in (gate, up)]
        ctx.save_for_backward(*quantize_codes(rows[0]), *quantize_codes(rows[1]))
        return swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        gate, gate_scale, up, up_scale = ctx.saved_tensors
        halves = ((gate, gate_scale), (up, up_scale))
        values = (dequantize(*half, grad_output.dtype).view_as(grad_output) for half in halves)
        return swiglu_backward(grad_output, *values)


def rounded_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up [..., I]; its gradients are those of gate and up rounded to e4m3 per
    token, which is all that is kept of them.
    """
    return _RoundedSwiGLU.apply(gate, up)


_CODES = {"qdata": "*fp8e4nv", "scale": "*fp32"}
_HALVES = {"halves": "*fp8e4nv", "scales": "*fp32"}
BUILDS = [
    Build(
        swiglu_codes_forward_kernel,
        signature_of(INPUT_TYPES | _CODES | _HALVES, *FORWARD_STRIDES),
        {"NUM_COLUMNS": 11008, "BLOCK": block_of(11008)},
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block_of(11008)),
    ),
    Build(
        swiglu_codes_backward_kernel,
        signature_of(
            {"grad_output": "*bf16"} | _HALVES | {"weight_scale": "*fp32"} | _CODES, "grad_stride"
        ),
        {"NUM_COLUMNS": 28672, "BLOCK": block_of(28672)},
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block_of(28672)),
    ),
]
