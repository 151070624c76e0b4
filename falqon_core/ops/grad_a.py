"""The gradient of A, from the codes of x that backward keeps and their scales.

`grad_a(through_b, qdata, scale, scaling) = scaling * through_b^T . (qdata * scale)`, through_b =
dy B. The kernel reads one byte an element of x, where dequantizing it first writes and reads it in
bf16 as well. A token's scale is a power of two, so it is folded into the narrow operand, exactly;
codes are exact in bf16, and the tensor cores add in fp32. A program passes over all tokens in their
order, so the same inputs give the same bits.

What is given up: no split over the tokens, so a group of one linear has as many programs as I / 64,
half of what a large GPU could hold.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import Build, dot_bf16, jit, round_to, tl
from falqon_core.ops.matmul import matmul_fp32
from falqon_core.ops.quantize import dequantize
from falqon_core.ops.samples import Draw, SampleInput, result_alone

BLOCK_RANKS = 64
BLOCK_COLUMNS = 64
BLOCK_TOKENS = 64
NUM_STAGES = 4


@operator
def grad_a(through_b: Tensor, qdata: Tensor, scale: Tensor, scaling: float) -> Tensor:
    """Return scaling * through_b^T . (qdata * scale), fp32 [R, I]; through_b bf16 [T, R], qdata
    e4m3 [T, I], scale fp32 [T, 1], powers of two.
    """
    x = dequantize(qdata, scale, through_b.dtype)
    return matmul_fp32(through_b.t(), x).mul_(scaling)


@grad_a.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    for num_tokens, num_ranks in ((9, 7), (150, 80)):
        x = draw.codes(num_tokens, 208), draw.scales(num_tokens, 1)
        yield SampleInput((draw.normal(num_tokens, num_ranks), *x, 0.5), result_alone)


@jit
def grad_a_kernel(
    through_b,
    qdata,
    scale,
    grad,
    scaling,
    num_tokens,
    num_ranks,
    num_columns,
    BLOCK_RANKS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Compute one tile of the gradient a program, over all tokens."""
    rank = tl.program_id(0) * BLOCK_RANKS + tl.arange(0, BLOCK_RANKS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    total = tl.zeros((BLOCK_RANKS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, num_tokens, BLOCK_TOKENS):
        token = start + tl.arange(0, BLOCK_TOKENS).to(tl.int64)
        is_token = token < num_tokens
        # Transposed as it is read: [BR, BT].
        left = tl.load(
            through_b + token[None, :] * num_ranks + rank[:, None],
            mask=is_token[None, :] & (rank < num_ranks)[:, None],
            other=0.0,
        ).to(tl.float32)
        # A power of two moves the exponent of a bf16 value and rounds nothing.
        left *= tl.load(scale + token, mask=is_token, other=0.0)[None, :]
        right = tl.load(
            qdata + token[:, None] * num_columns + column[None, :],
            mask=is_token[:, None] & (column < num_columns)[None, :],
            other=0.0,
        )
        total += dot_bf16(round_to(left, tl.bfloat16), round_to(right.to(tl.float32), tl.bfloat16))
    tl.store(
        grad + rank[:, None].to(tl.int64) * num_columns + column[None, :],
        total * scaling,
        mask=(rank < num_ranks)[:, None] & (column < num_columns)[None, :],
    )


def grad_a_triton(through_b: Tensor, qdata: Tensor, scale: Tensor, scaling: float) -> Tensor:
    """Launch the kernel over tiles of the gradient [R, I]; all operands are contiguous."""
    num_tokens, num_ranks = through_b.shape
    num_columns = qdata.shape[1]
    grad = torch.empty(num_ranks, num_columns, device=qdata.device)
    grad_a_kernel[(-(-num_ranks // BLOCK_RANKS), -(-num_columns // BLOCK_COLUMNS))](
        through_b,
        qdata,
        scale,
        grad,
        scaling,
        num_tokens,
        num_ranks,
        num_columns,
        BLOCK_RANKS=BLOCK_RANKS,
        BLOCK_COLUMNS=BLOCK_COLUMNS,
        BLOCK_TOKENS=BLOCK_TOKENS,
        num_stages=NUM_STAGES,
    )
    return grad


grad_a.kernels["cuda"] = grad_a_triton

_TYPES = {"through_b": "*bf16", "qdata": "*fp8e4nv", "scale": "*fp32", "grad": "*fp32"}
_TYPES |= {"scaling": "fp32"} | dict.fromkeys(("num_tokens", "num_ranks", "num_columns"), "i32")
_TILE = {
    "BLOCK_RANKS": BLOCK_RANKS,
    "BLOCK_COLUMNS": BLOCK_COLUMNS,
    "BLOCK_TOKENS": BLOCK_TOKENS,
}
BUILDS = [
    Build(
        grad_a_kernel,
        _TYPES | dict.fromkeys(_TILE, "constexpr"),
        _TILE,
        ptx_of={
            89: ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",),
            90: ("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16",),
            100: ("tcgen05.mma.cta_group::1.kind::f16",),
            120: ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",),
        },
        num_stages=NUM_STAGES,
    )
]
