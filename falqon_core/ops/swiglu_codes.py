"""SwiGLU (swiglu.py) quantized for the GEMM on codes that follows: forward the product, backward
both gradients.

One program takes one row and keeps its first block in registers between the search for the scale
and the writing of codes; columns beyond, of which only rows longer than `MAX_BLOCK` have any, are
computed twice. The kernels round where the oracles do and differ from them only in the last bits of
the fp32 exponential.
"""

from collections.abc import Iterator

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
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.samples import Draw, SampleInput, codes_first, codes_last
from falqon_core.ops.swiglu import (
    BACKWARD_STRIDES,
    FORWARD_STRIDES,
    INPUT_TYPES,
    backward_block,
    forward_block,
    signature_of,
    swiglu_backward,
    swiglu_forward,
)


@operator
def swiglu_codes_forward(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return (qdata float8_e4m3fn [T, I], scale fp32 [T, 1]) of swiglu, per token; gate, up [T, I]
    of one dtype, rows at any stride.
    """
    return quantize_codes.oracle(swiglu_forward.oracle(gate, up))


swiglu_codes_forward.tried_on(lambda draw: [SampleInput(draw.halves(9, 208), codes_first)])


@operator
def swiglu_codes_backward(
    grad_output: Tensor, gate: Tensor, up: Tensor, gate_scale: Tensor, up_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (grad of gate, grad of up, qdata float8_e4m3fn [T, 2I], scale fp32 [T, 1]).

    The gradients [T, I] are the two halves of one tensor [T, 2I]. The codes are of [grad of gate *
    gate_scale | grad of up * up_scale], per token: the operand of grad_input's GEMM where gate and
    up are melded in one weight, whose row scales (fp32 [I] each) lie on its contraction axis.
    """
    grads = torch.cat(swiglu_backward.oracle(grad_output, gate, up), -1)
    qdata, scale = quantize_codes.oracle(grads, torch.cat([gate_scale, up_scale]))
    grad_gate, grad_up = grads.chunk(2, -1)
    return grad_gate, grad_up, qdata, scale


@swiglu_codes_backward.tried_on
def _codes_backward_samples(draw: Draw) -> Iterator[SampleInput]:
    scales = draw.scales(208), draw.scales(208)
    yield SampleInput((draw.normal(9, 208), *draw.halves(9, 208), *scales), codes_last)


@jit
def _backward_scaled(
    grad_output, gate, up, gate_scale, up_scale, grads, columns, num_columns, STORE: tl.constexpr
):
    """Compute one block of both gradients times the scales of the weight's rows, as fp32; with
    STORE the gradients themselves go to `grads`.
    """
    inside = columns < num_columns
    grad_gate, grad_up = backward_block(grad_output, gate, up, columns, num_columns)
    if STORE:
        tl.store(grads + columns, grad_gate, mask=inside)
        tl.store(grads + num_columns + columns, grad_up, mask=inside)
    scaled_gate = grad_gate.to(tl.float32) * tl.load(gate_scale + columns, mask=inside, other=0.0)
    scaled_up = grad_up.to(tl.float32) * tl.load(up_scale + columns, mask=inside, other=0.0)
    return round_to(scaled_gate, grad_gate.dtype).to(tl.float32), round_to(
        scaled_up, grad_gate.dtype
    ).to(tl.float32)


@jit
def swiglu_codes_forward_kernel(
    gate, up, qdata, scale, gate_stride, up_stride, NUM_COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute and quantize one row a program; `qdata` [T, I] and `scale` fp32 [T, 1] are
    written.
    """
    row = tl.program_id(0).to(tl.int64)
    gate += row * gate_stride
    up += row * up_stride
    qdata += row * NUM_COLUMNS
    columns = tl.arange(0, BLOCK)
    first = forward_block(gate, up, columns, NUM_COLUMNS).to(tl.float32)
    largest = tl.abs(first)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        largest = tl.maximum(
            largest, tl.abs(forward_block(gate, up, start + columns, NUM_COLUMNS).to(tl.float32))
        )
    # The scale is known once the whole row is: 2^exponent, and codes are value * 2^-exponent,
    # exact.
    exponent = power_of_two_exponent(tl.max(largest))
    tl.store(scale + row, power_of_two(exponent))
    inverse = power_of_two(-exponent)
    tl.store(qdata + columns, to_e4m3(first * inverse), mask=columns < NUM_COLUMNS)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        # Columns beyond the first block are computed again; keeping them would spill registers.
        value = forward_block(gate, up, start + columns, NUM_COLUMNS).to(tl.float32)
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
    """Compute and quantize both gradients of one row a program: 2 I columns under one scale."""
    row = tl.program_id(0).to(tl.int64)
    grad_output += row * grad_stride
    gate += row * gate_stride
    up += row * up_stride
    grads += row * 2 * NUM_COLUMNS
    qdata += row * 2 * NUM_COLUMNS
    columns = tl.arange(0, BLOCK)
    # The first block of both gradients stays in registers; the others are computed twice.
    first_gate, first_up = _backward_scaled(
        grad_output, gate, up, gate_scale, up_scale, grads, columns, NUM_COLUMNS, True
    )
    largest = tl.maximum(tl.abs(first_gate), tl.abs(first_up))
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        of_gate, of_up = _backward_scaled(
            grad_output, gate, up, gate_scale, up_scale, grads, start + columns, NUM_COLUMNS, True
        )
        largest = tl.maximum(largest, tl.maximum(tl.abs(of_gate), tl.abs(of_up)))
    # One scale for gate and up: their gradients are one row of the joined operand.
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


def swiglu_codes_forward_triton(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Launch the kernel, one program a token."""
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
    """Launch the kernel, one program a token."""
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


swiglu_codes_forward.kernels["cuda"] = swiglu_codes_forward_triton
swiglu_codes_backward.kernels["cuda"] = swiglu_codes_backward_triton

_SCALES = {"gate_scale": "*fp32", "up_scale": "*fp32"}
_CODES = {"qdata": "*fp8e4nv", "scale": "*fp32"}
BUILDS = [
    Build(
        swiglu_codes_forward_kernel,
        signature_of(INPUT_TYPES | _CODES, *FORWARD_STRIDES),
        {"NUM_COLUMNS": 11008, "BLOCK": block_of(11008)},
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block_of(11008)),
    ),
    Build(
        swiglu_codes_backward_kernel,
        signature_of(
            {"grad_output": "*bf16"} | INPUT_TYPES | _SCALES | {"grads": "*bf16"} | _CODES,
            *BACKWARD_STRIDES,
        ),
        {"NUM_COLUMNS": 28672, "BLOCK": block_of(28672)},
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block_of(28672)),
    ),
]
