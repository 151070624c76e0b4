"""SwiGLU, y = silu(gate) * up elementwise, and its gradients with respect to both.

Kept for backward: gate and up only; silu(gate) is computed again, which autograd would have kept as
a third tensor of that size.

`swiglu_codes_forward` and `swiglu_codes_backward` also quantize what they make, for the GEMM on
codes that follows. There one program takes one row and keeps its first block in registers between
finding the scale and writing the codes; columns beyond, of which only rows longer than `MAX_BLOCK`
have any, are computed twice. The kernels round where the oracles do and differ from them only in
the last bits of the fp32 exponential. What is given up: one silu more in backward, in exchange for
a third of the memory of the widest activations.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.samples import Draw, Sample, all_results, codes_first, codes_last, result_alone

ELEMENTWISE_BLOCK = 1024  # columns of one program where nothing is reduced over the row


@operator
def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [..., I] of one dtype -> [..., I]."""
    return F.silu(gate).mul_(up)


swiglu_forward.tried_on(lambda draw: [Sample(draw.halves(9, 208), result_alone)])


@operator
def swiglu_backward(grad_output: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """-> (grad of gate, grad of up), both [..., I]: the two halves of one buffer [..., 2 * I].

    Side by side they are what grad_input of a melded gate and up multiplies, so nobody has to copy
    them together.
    """
    grad_gate, grad_up = grad_output.new_empty(*gate.shape[:-1], 2 * gate.shape[-1]).chunk(2, -1)
    torch.mul(grad_output, up, out=grad_gate)
    torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
    torch.ops.aten.silu.out(gate, out=grad_up).mul_(grad_output)
    return grad_gate, grad_up


swiglu_backward.tried_on(
    lambda draw: [Sample((draw.normal(9, 208), *draw.halves(9, 208)), all_results)]
)


@operator
def swiglu_codes_forward(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """gate, up [T, I] of one dtype, rows at any stride -> (qdata float8_e4m3fn [T, I], scale fp32
    [T, 1]) of swiglu, per token.
    """
    return quantize_codes.oracle(swiglu_forward.oracle(gate, up))


swiglu_codes_forward.tried_on(lambda draw: [Sample(draw.halves(9, 208), codes_first)])


@operator
def swiglu_codes_backward(
    grad_output: Tensor, gate: Tensor, up: Tensor, gate_scale: Tensor, up_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> (grad of gate, grad of up, qdata float8_e4m3fn [T, 2I], scale fp32 [T, 1]).

    The gradients [T, I] are the two halves of one tensor [T, 2I]. The codes are of [grad of gate *
    gate_scale | grad of up * up_scale], per token: what the GEMM of grad_input reads where gate and
    up are melded in one weight, whose row scales (fp32 [I] each) lie on its contraction axis.
    """
    grads = torch.cat(swiglu_backward.oracle(grad_output, gate, up), -1)
    qdata, scale = quantize_codes.oracle(grads, torch.cat([gate_scale, up_scale]))
    grad_gate, grad_up = grads.chunk(2, -1)
    return grad_gate, grad_up, qdata, scale


@swiglu_codes_backward.tried_on
def _codes_backward_samples(draw: Draw) -> Iterator[Sample]:
    scales = draw.scales(208), draw.scales(208)
    yield Sample((draw.normal(9, 208), *draw.halves(9, 208), *scales), codes_last)


@jit
def _forward(gate, up, columns, num_columns):
    """One block of silu(gate) * up in gate's dtype, rounded as the oracle does; zero beyond the
    row.
    """
    inside = columns < num_columns
    gate = tl.load(gate + columns, mask=inside, other=0.0)
    silu = round_to(gate.to(tl.float32) * tl.sigmoid(gate.to(tl.float32)), gate.dtype)
    return round_to(
        silu.to(tl.float32) * tl.load(up + columns, mask=inside, other=0.0).to(tl.float32),
        gate.dtype,
    )


@jit
def _backward(grad_output, gate, up, columns, num_columns):
    """One block of the gradients of gate and up in gate's dtype, rounded as the oracle does; zero
    beyond the row.
    """
    inside = columns < num_columns
    gate = tl.load(gate + columns, mask=inside, other=0.0)
    dtype: tl.constexpr = gate.dtype
    gate = gate.to(tl.float32)
    grad = tl.load(grad_output + columns, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    grad_silu = round_to(
        grad * tl.load(up + columns, mask=inside, other=0.0).to(tl.float32), dtype
    ).to(tl.float32)
    grad_gate = round_to(grad_silu * sigmoid * (1.0 + gate * (1.0 - sigmoid)), dtype)
    return grad_gate, round_to(round_to(gate * sigmoid, dtype).to(tl.float32) * grad, dtype)


@jit
def _backward_scaled(
    grad_output, gate, up, gate_scale, up_scale, grads, columns, num_columns, STORE: tl.constexpr
):
    """One block of both gradients times the scales of the weight's rows, as fp32; with STORE the
    gradients themselves go to `grads`.
    """
    inside = columns < num_columns
    grad_gate, grad_up = _backward(grad_output, gate, up, columns, num_columns)
    if STORE:
        tl.store(grads + columns, grad_gate, mask=inside)
        tl.store(grads + num_columns + columns, grad_up, mask=inside)
    scaled_gate = grad_gate.to(tl.float32) * tl.load(gate_scale + columns, mask=inside, other=0.0)
    scaled_up = grad_up.to(tl.float32) * tl.load(up_scale + columns, mask=inside, other=0.0)
    return round_to(scaled_gate, grad_gate.dtype).to(tl.float32), round_to(
        scaled_up, grad_gate.dtype
    ).to(tl.float32)


@jit
def swiglu_forward_kernel(
    gate, up, y, gate_stride, up_stride, NUM_COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    result = _forward(gate + row * gate_stride, up + row * up_stride, columns, NUM_COLUMNS)
    tl.store(y + row * NUM_COLUMNS + columns, result, mask=columns < NUM_COLUMNS)


@jit
def swiglu_backward_kernel(
    grad_output,
    gate,
    up,
    grad_gate,
    grad_up,
    grad_stride,
    gate_stride,
    up_stride,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    of_gate, of_up = _backward(
        grad_output + row * grad_stride,
        gate + row * gate_stride,
        up + row * up_stride,
        columns,
        NUM_COLUMNS,
    )
    tl.store(grad_gate + row * 2 * NUM_COLUMNS + columns, of_gate, mask=columns < NUM_COLUMNS)
    tl.store(grad_up + row * 2 * NUM_COLUMNS + columns, of_up, mask=columns < NUM_COLUMNS)


@jit
def swiglu_codes_forward_kernel(
    gate, up, qdata, scale, gate_stride, up_stride, NUM_COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    gate += row * gate_stride
    up += row * up_stride
    qdata += row * NUM_COLUMNS
    columns = tl.arange(0, BLOCK)
    first = _forward(gate, up, columns, NUM_COLUMNS).to(tl.float32)
    largest = tl.abs(first)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        largest = tl.maximum(
            largest, tl.abs(_forward(gate, up, start + columns, NUM_COLUMNS).to(tl.float32))
        )
    exponent = power_of_two_exponent(tl.max(largest))
    tl.store(scale + row, power_of_two(exponent))
    inverse = power_of_two(-exponent)
    tl.store(qdata + columns, to_e4m3(first * inverse), mask=columns < NUM_COLUMNS)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        value = _forward(gate, up, start + columns, NUM_COLUMNS).to(tl.float32)
        tl.store(
            qdata + start + columns, to_e4m3(value * inverse), mask=start + columns < NUM_COLUMNS
        )


@jit
def swiglu_codes_backward_kernel(
    grad_output,
    gate,
    up,
    gate_scale,
    up_scale,
    grads,
    qdata,
    scale,
    grad_stride,
    gate_stride,
    up_stride,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    grad_output += row * grad_stride
    gate += row * gate_stride
    up += row * up_stride
    grads += row * 2 * NUM_COLUMNS
    qdata += row * 2 * NUM_COLUMNS
    columns = tl.arange(0, BLOCK)
    first_gate, first_up = _backward_scaled(
        grad_output, gate, up, gate_scale, up_scale, grads, columns, NUM_COLUMNS, True
    )
    largest = tl.maximum(tl.abs(first_gate), tl.abs(first_up))
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        of_gate, of_up = _backward_scaled(
            grad_output, gate, up, gate_scale, up_scale, grads, start + columns, NUM_COLUMNS, True
        )
        largest = tl.maximum(largest, tl.maximum(tl.abs(of_gate), tl.abs(of_up)))
    exponent = power_of_two_exponent(tl.max(largest))
    tl.store(scale + row, power_of_two(exponent))
    inverse = power_of_two(-exponent)
    tl.store(qdata + columns, to_e4m3(first_gate * inverse), mask=columns < NUM_COLUMNS)
    tl.store(qdata + NUM_COLUMNS + columns, to_e4m3(first_up * inverse), mask=columns < NUM_COLUMNS)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        inside = start + columns < NUM_COLUMNS
        of_gate, of_up = _backward_scaled(
            grad_output, gate, up, gate_scale, up_scale, grads, start + columns, NUM_COLUMNS, False
        )
        tl.store(qdata + start + columns, to_e4m3(of_gate * inverse), mask=inside)
        tl.store(qdata + NUM_COLUMNS + start + columns, to_e4m3(of_up * inverse), mask=inside)


def swiglu_forward_triton(gate: Tensor, up: Tensor) -> Tensor:
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    gate = rows_of(gate)
    up = rows_of(up)
    num_rows, num_columns = gate.shape
    grid = (num_rows, -(-num_columns // ELEMENTWISE_BLOCK))
    swiglu_forward_kernel[grid](
        gate, up, y, gate.stride(0), up.stride(0), NUM_COLUMNS=num_columns, BLOCK=ELEMENTWISE_BLOCK
    )
    return y


def swiglu_backward_triton(grad_output: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = gate.new_empty(*gate.shape[:-1], 2 * gate.shape[-1]).chunk(2, -1)
    grad = rows_of(grad_output)
    gate = rows_of(gate)
    up = rows_of(up)
    num_rows, num_columns = gate.shape
    grid = (num_rows, -(-num_columns // ELEMENTWISE_BLOCK))
    strides = grad.stride(0), gate.stride(0), up.stride(0)
    swiglu_backward_kernel[grid](
        grad,
        gate,
        up,
        grad_gate,
        grad_up,
        *strides,
        NUM_COLUMNS=num_columns,
        BLOCK=ELEMENTWISE_BLOCK,
    )
    return grad_gate, grad_up


def swiglu_codes_forward_triton(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    gate = rows_of(gate)
    up = rows_of(up)
    num_rows, num_columns = gate.shape
    qdata = torch.empty(num_rows, num_columns, dtype=torch.float8_e4m3fn, device=gate.device)
    scale = torch.empty(num_rows, 1, device=gate.device)
    block = block_of(num_columns)
    swiglu_codes_forward_kernel[(num_rows,)](
        gate,
        up,
        qdata,
        scale,
        gate.stride(0),
        up.stride(0),
        NUM_COLUMNS=num_columns,
        BLOCK=block,
        num_warps=warps_of(block),
    )
    return qdata, scale


def swiglu_codes_backward_triton(
    grad_output: Tensor, gate: Tensor, up: Tensor, gate_scale: Tensor, up_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad = rows_of(grad_output)
    gate = rows_of(gate)
    up = rows_of(up)
    num_rows, num_columns = gate.shape
    grads = torch.empty(num_rows, 2 * num_columns, dtype=gate.dtype, device=gate.device)
    qdata = torch.empty(grads.shape, dtype=torch.float8_e4m3fn, device=gate.device)
    scale = torch.empty(num_rows, 1, device=gate.device)
    block = block_of(num_columns)
    tensors = grad, gate, up, gate_scale.contiguous(), up_scale.contiguous(), grads, qdata, scale
    strides = grad.stride(0), gate.stride(0), up.stride(0)
    swiglu_codes_backward_kernel[(num_rows,)](
        *tensors, *strides, NUM_COLUMNS=num_columns, BLOCK=block, num_warps=warps_of(block)
    )
    grad_gate, grad_up = grads.chunk(2, -1)
    return grad_gate, grad_up, qdata, scale


swiglu_forward.kernels["cuda"] = swiglu_forward_triton
swiglu_backward.kernels["cuda"] = swiglu_backward_triton
swiglu_codes_forward.kernels["cuda"] = swiglu_codes_forward_triton
swiglu_codes_backward.kernels["cuda"] = swiglu_codes_backward_triton


def _signature(tensors: dict[str, str], *strides: str) -> dict[str, str]:
    return (
        tensors | dict.fromkeys(strides, "i32") | {"NUM_COLUMNS": "constexpr", "BLOCK": "constexpr"}
    )


_INPUTS = {"gate": "*bf16", "up": "*bf16"}
_SCALES = {"gate_scale": "*fp32", "up_scale": "*fp32"}
_CODES = {"qdata": "*fp8e4nv", "scale": "*fp32"}
_FORWARD_STRIDES = ("gate_stride", "up_stride")
_BACKWARD_STRIDES = ("grad_stride", "gate_stride", "up_stride")
BUILDS = [
    Build(
        swiglu_forward_kernel,
        _signature(_INPUTS | {"y": "*bf16"}, *_FORWARD_STRIDES),
        {"NUM_COLUMNS": 11008, "BLOCK": ELEMENTWISE_BLOCK},
    ),
    Build(
        swiglu_backward_kernel,
        _signature(
            {"grad_output": "*bf16"} | _INPUTS | {"grad_gate": "*bf16", "grad_up": "*bf16"},
            *_BACKWARD_STRIDES,
        ),
        {"NUM_COLUMNS": 11008, "BLOCK": ELEMENTWISE_BLOCK},
    ),
    Build(
        swiglu_codes_forward_kernel,
        _signature(_INPUTS | _CODES, *_FORWARD_STRIDES),
        {"NUM_COLUMNS": 11008, "BLOCK": block_of(11008)},
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block_of(11008)),
    ),
    Build(
        swiglu_codes_backward_kernel,
        _signature(
            {"grad_output": "*bf16"} | _INPUTS | _SCALES | {"grads": "*bf16"} | _CODES,
            *_BACKWARD_STRIDES,
        ),
        {"NUM_COLUMNS": 28672, "BLOCK": block_of(28672)},
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block_of(28672)),
    ),
]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        return swiglu_backward(grad_output, *ctx.saved_tensors)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [..., I] of one dtype -> [..., I], differentiable."""
    return _SwiGLU.apply(gate, up)
