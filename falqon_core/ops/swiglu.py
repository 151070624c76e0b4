"""SwiGLU, y = silu(gate) * up elementwise, and its gradients with respect to both.

Kept for backward: gate and up only; silu(gate) is computed again, which autograd would have kept as
a third tensor of that size. The kernels round where the oracles do and differ from them only in the
last bits of the fp32 exponential; swiglu_codes.py quantizes in the same pass. What is given up: one
silu more in backward, in exchange for a third of the memory of the widest activations.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    Build,
    jit,
    round_to,
    rows_of,
    tl,
)
from falqon_core.ops.samples import SampleInput, all_results, result_alone

ELEMENTWISE_BLOCK = 1024  # Columns of one program where nothing is reduced over the row.


@operator
def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up [..., I]; gate, up [..., I] of one dtype."""
    return F.silu(gate).mul_(up)


swiglu_forward.tried_on(lambda draw: [SampleInput(draw.halves(9, 208), result_alone)])


@operator
def swiglu_backward(grad_output: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return (grad of gate, grad of up), both [..., I]: the two halves of one buffer [..., 2 * I].

    Side by side they are the operand of grad_input of a melded gate and up, so they need not be
    copied together.
    """
    grad_gate, grad_up = grad_output.new_empty(*gate.shape[:-1], 2 * gate.shape[-1]).chunk(2, -1)
    # Three passes over bf16 buffers, no temporary: grad * up, then silu's derivative, then silu.
    torch.mul(grad_output, up, out=grad_gate)
    torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
    torch.ops.aten.silu.out(gate, out=grad_up).mul_(grad_output)
    return grad_gate, grad_up


swiglu_backward.tried_on(
    lambda draw: [SampleInput((draw.normal(9, 208), *draw.halves(9, 208)), all_results)]
)


@jit
def forward_block(gate, up, columns, num_columns):
    """Compute one block of silu(gate) * up in gate's dtype, rounded as the oracle does; zero beyond
    the row.
    """
    inside = columns < num_columns
    gate = tl.load(gate + columns, mask=inside, other=0.0)
    return product_of(gate, tl.load(up + columns, mask=inside, other=0.0))


@jit
def product_of(gate, up):
    """Return silu(gate) * up in their dtype, rounded as the oracle does."""
    # The activation is rounded to bf16 before the product, as torch's two operations do.
    silu = round_to(gate.to(tl.float32) * tl.sigmoid(gate.to(tl.float32)), gate.dtype)
    return round_to(silu.to(tl.float32) * up.to(tl.float32), gate.dtype)


@jit
def backward_block(grad_output, gate, up, columns, num_columns):
    """Compute one block of the gradients of gate and up in gate's dtype, rounded as the oracle
    does; zero beyond the row.
    """
    inside = columns < num_columns
    gate = tl.load(gate + columns, mask=inside, other=0.0)
    up = tl.load(up + columns, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_output + columns, mask=inside, other=0.0).to(tl.float32)
    return gradients_of(grad, gate.to(tl.float32), up, gate.dtype)


@jit
def gradients_of(grad, gate, up, DTYPE: tl.constexpr):
    """Return the gradients of gate and up in DTYPE, of fp32 values, rounded as the oracle does."""
    sigmoid = tl.sigmoid(gate)
    grad_silu = round_to(grad * up, DTYPE).to(tl.float32)
    # The derivative of silu is sigmoid(g) * (1 + g * (1 - sigmoid(g))), in fp32.
    grad_gate = round_to(grad_silu * sigmoid * (1.0 + gate * (1.0 - sigmoid)), DTYPE)
    return grad_gate, round_to(round_to(gate * sigmoid, DTYPE).to(tl.float32) * grad, DTYPE)


@jit
def swiglu_forward_kernel(
    gate, up, y, gate_stride, up_stride, NUM_COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute one block of a row a program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    result = forward_block(gate + row * gate_stride, up + row * up_stride, columns, NUM_COLUMNS)
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
    """Compute one block of a row a program; both gradients are halves of rows of 2 *
    NUM_COLUMNS.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    of_gate, of_up = backward_block(
        grad_output + row * grad_stride,
        gate + row * gate_stride,
        up + row * up_stride,
        columns,
        NUM_COLUMNS,
    )
    tl.store(grad_gate + row * 2 * NUM_COLUMNS + columns, of_gate, mask=columns < NUM_COLUMNS)
    tl.store(grad_up + row * 2 * NUM_COLUMNS + columns, of_up, mask=columns < NUM_COLUMNS)


def swiglu_forward_triton(gate: Tensor, up: Tensor) -> Tensor:
    """Launch the kernel; rows of gate and up may have any stride."""
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
    """Launch the kernel; rows may have any stride."""
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


swiglu_forward.kernels["cuda"] = swiglu_forward_triton
swiglu_backward.kernels["cuda"] = swiglu_backward_triton


def signature_of(tensors: dict[str, str], *strides: str) -> dict[str, str]:
    """Return Triton's types of a kernel's arguments: tensors, strides, then the constexprs."""
    return (
        tensors | dict.fromkeys(strides, "i32") | {"NUM_COLUMNS": "constexpr", "BLOCK": "constexpr"}
    )


INPUT_TYPES = {"gate": "*bf16", "up": "*bf16"}
FORWARD_STRIDES = ("gate_stride", "up_stride")
BACKWARD_STRIDES = ("grad_stride", "gate_stride", "up_stride")
BUILDS = [
    Build(
        swiglu_forward_kernel,
        signature_of(INPUT_TYPES | {"y": "*bf16"}, *FORWARD_STRIDES),
        {"NUM_COLUMNS": 11008, "BLOCK": ELEMENTWISE_BLOCK},
    ),
    Build(
        swiglu_backward_kernel,
        signature_of(
            {"grad_output": "*bf16"} | INPUT_TYPES | {"grad_gate": "*bf16", "grad_up": "*bf16"},
            *BACKWARD_STRIDES,
        ),
        {"NUM_COLUMNS": 11008, "BLOCK": ELEMENTWISE_BLOCK},
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
    """Return silu(gate) * up [..., I], differentiable; gate, up [..., I] of one dtype."""
    return _SwiGLU.apply(gate, up)
