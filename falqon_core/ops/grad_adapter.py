"""The gradients of A and B, from the codes of x and of dY that the FP8 GEMMs read.

    grad_a = scaling * through_b^T . (qdata * scale)             with through_b = dY B, codes of x
    grad_b = scaling * (qdata * scale / weight_scale)^T . o_a    with codes of dY * weight_scale

The kernels read one byte an element of x and of dY, where dequantizing them first would write and
read bf16 as well. A token's scale is a power of two, so it is folded into the narrow operand,
exactly; codes are exact in bf16, and the tensor cores add in fp32. A program passes over all tokens
in their order, so the same inputs give the same bits.

What is given up: no split over the tokens, so a group of one linear has as many programs as it has
columns / 64, half of what a large GPU could hold. dY is rounded once more than in a bf16 product;
method-products.md has what that costs.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    MAX_LINEARS,
    Build,
    dot_bf16,
    inverse_power_of_two,
    jit,
    round_to,
    tl,
)
from falqon_core.ops.matmul import matmul_fp32
from falqon_core.ops.quantize import dequantize
from falqon_core.ops.samples import Draw, SampleInput, result_alone

BLOCK_RANKS = 64
BLOCK_COLUMNS = 64
BLOCK_TOKENS = 64
NUM_STAGES = 4


@operator
def grad_a(through_b: Tensor, qdata: Tensor, scale: Tensor, scaling: float) -> Tensor:
    """Return scaling * through_b^T . (qdata * scale), fp32 [R, I]; through_b bf16 [T, R], rows at
    any stride, qdata e4m3 [T, I], scale fp32 [T, 1], powers of two.
    """
    x = dequantize(qdata, scale, through_b.dtype)
    return matmul_fp32(through_b.t(), x).mul_(scaling)


@grad_a.tried_on
def _samples_of_a(draw: Draw) -> Iterator[SampleInput]:
    for num_tokens, num_ranks in ((9, 7), (150, 80)):
        x = draw.codes(num_tokens, 208), draw.scales(num_tokens, 1)
        yield SampleInput((draw.normal(num_tokens, num_ranks), *x, 0.5), result_alone)


@operator
def grad_b(
    o_a: Tensor,
    qdata: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    sizes: Sequence[int],
    scaling: float,
) -> Tensor:
    """Return the gradients of all B of a group, one below the other, fp32 [sum O, r].

    o_a bf16 [T, n r], rows at any stride; qdata e4m3 [T, sum O] and scale fp32 [T, 1] are of dY *
    weight_scale (fp32 [sum O]), with powers of two; `sizes` are the O_j of the linears.
    """
    grads = dequantize(qdata, scale, o_a.dtype).div_(weight_scale.to(o_a.dtype))
    parts = zip(grads.split(list(sizes), 1), o_a.chunk(len(sizes), 1), strict=True)
    return torch.cat([matmul_fp32(grad.t(), o) for grad, o in parts]).mul_(scaling)


@grad_b.tried_on
def _samples_of_b(draw: Draw) -> Iterator[SampleInput]:
    for num_tokens, rank, sizes in ((9, 7, (48,)), (150, 80, (80, 16, 32))):
        total = sum(sizes)
        grads = draw.codes(num_tokens, total), draw.scales(num_tokens, 1), draw.scales(total)
        o_a = draw.normal(num_tokens, len(sizes) * rank)
        yield SampleInput((o_a, *grads, sizes, 0.5), result_alone)


@jit
def codes_product(
    narrow,
    stride,
    qdata,
    scale,
    num_tokens,
    num_columns,
    rank,
    is_rank,
    column,
    is_column,
    BLOCK_RANKS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Return narrow^T . (qdata * scale) for the columns `rank` of narrow [T, ..] and `column` of
    qdata [T, num_columns], fp32 [BR, BC].
    """
    total = tl.zeros((BLOCK_RANKS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, num_tokens, BLOCK_TOKENS):
        token = start + tl.arange(0, BLOCK_TOKENS).to(tl.int64)
        is_token = token < num_tokens
        # Transposed as it is read: [BR, BT].
        left = tl.load(
            narrow + token[None, :] * stride + rank[:, None],
            mask=is_token[None, :] & is_rank[:, None],
            other=0.0,
        ).to(tl.float32)
        # A power of two moves the exponent of a bf16 value and rounds nothing.
        left *= tl.load(scale + token, mask=is_token, other=0.0)[None, :]
        right = tl.load(
            qdata + token[:, None] * num_columns + column[None, :],
            mask=is_token[:, None] & is_column[None, :],
            other=0.0,
        )
        total += dot_bf16(round_to(left, tl.bfloat16), round_to(right.to(tl.float32), tl.bfloat16))
    return total


@jit
def grad_a_kernel(
    through_b,
    qdata,
    scale,
    grad,
    scaling,
    stride,
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
    is_rank = rank < num_ranks
    is_column = column < num_columns
    total = codes_product(
        through_b,
        stride,
        qdata,
        scale,
        num_tokens,
        num_columns,
        rank,
        is_rank,
        column,
        is_column,
        BLOCK_RANKS,
        BLOCK_COLUMNS,
        BLOCK_TOKENS,
    )
    tl.store(
        grad + rank[:, None].to(tl.int64) * num_columns + column[None, :],
        total * scaling,
        mask=is_rank[:, None] & is_column[None, :],
    )


@jit
def grad_b_kernel(
    o_a,
    qdata,
    scale,
    weight_scale,
    grad,
    scaling,
    stride,
    num_tokens,
    num_ranks,
    num_columns,
    first_end,
    second_end,
    BLOCK_RANKS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Compute one tile of one linear's gradient a program, over all tokens; the linears' columns
    end at `first_end`, `second_end` and `num_columns`.
    """
    rank = tl.program_id(0) * BLOCK_RANKS + tl.arange(0, BLOCK_RANKS)
    # Tiles are counted from each linear's first column, so that none lies in two linears.
    tile = tl.program_id(1)
    first_tiles = tl.cdiv(first_end, BLOCK_COLUMNS)
    second_tiles = tl.cdiv(second_end - first_end, BLOCK_COLUMNS)
    in_second = (tile >= first_tiles) & (tile < first_tiles + second_tiles)
    in_third = tile >= first_tiles + second_tiles
    tile -= tl.where(in_third, first_tiles + second_tiles, tl.where(in_second, first_tiles, 0))
    begin = tl.where(in_third, second_end, tl.where(in_second, first_end, 0))
    end = tl.where(in_third, num_columns, tl.where(in_second, second_end, first_end))
    index = tl.where(in_third, 2, tl.where(in_second, 1, 0))
    column = begin + tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    is_rank = rank < num_ranks
    is_column = column < end
    total = codes_product(
        o_a + index * num_ranks,
        stride,
        qdata,
        scale,
        num_tokens,
        num_columns,
        rank,
        is_rank,
        column,
        is_column,
        BLOCK_RANKS,
        BLOCK_COLUMNS,
        BLOCK_TOKENS,
    )
    inverse = inverse_power_of_two(tl.load(weight_scale + column, mask=is_column, other=1.0))
    tl.store(
        grad + column[:, None].to(tl.int64) * num_ranks + rank[None, :],
        tl.trans(total * inverse[None, :]) * scaling,
        mask=is_column[:, None] & is_rank[None, :],
    )


def grad_a_triton(through_b: Tensor, qdata: Tensor, scale: Tensor, scaling: float) -> Tensor:
    """Launch the kernel over tiles of the gradient [R, I]; qdata and scale are contiguous."""
    num_tokens, num_ranks = through_b.shape
    num_columns = qdata.shape[1]
    grad = torch.empty(num_ranks, num_columns, device=qdata.device)
    grad_a_kernel[(-(-num_ranks // BLOCK_RANKS), -(-num_columns // BLOCK_COLUMNS))](
        through_b,
        qdata,
        scale,
        grad,
        scaling,
        through_b.stride(0),
        num_tokens,
        num_ranks,
        num_columns,
        **_TILE,
        num_stages=NUM_STAGES,
    )
    return grad


def grad_b_triton(
    o_a: Tensor,
    qdata: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    sizes: Sequence[int],
    scaling: float,
) -> Tensor:
    """Launch the kernel over tiles of all gradients; all but o_a are contiguous. The oracle
    computes groups of more than three linears.
    """
    if len(sizes) > MAX_LINEARS:
        return grad_b.oracle(o_a, qdata, scale, weight_scale, sizes, scaling)
    num_tokens, num_columns = qdata.shape
    num_ranks = o_a.shape[1] // len(sizes)
    grad = torch.empty(num_columns, num_ranks, device=qdata.device)
    num_tiles = sum(-(-size // BLOCK_COLUMNS) for size in sizes)
    grad_b_kernel[(-(-num_ranks // BLOCK_RANKS), num_tiles)](
        o_a,
        qdata,
        scale,
        weight_scale,
        grad,
        scaling,
        o_a.stride(0),
        num_tokens,
        num_ranks,
        num_columns,
        sizes[0],
        sum(sizes[:2]),
        **_TILE,
        num_stages=NUM_STAGES,
    )
    return grad


grad_a.kernels["cuda"] = grad_a_triton
grad_b.kernels["cuda"] = grad_b_triton

_TILE = {
    "BLOCK_RANKS": BLOCK_RANKS,
    "BLOCK_COLUMNS": BLOCK_COLUMNS,
    "BLOCK_TOKENS": BLOCK_TOKENS,
}
_CODES = {"qdata": "*fp8e4nv", "scale": "*fp32"}
_SIZES = ("stride", "num_tokens", "num_ranks", "num_columns")


def _build(kernel: object, tensors: dict[str, str], sizes: Sequence[str]) -> Build:
    types = tensors | {"grad": "*fp32", "scaling": "fp32"} | dict.fromkeys(sizes, "i32")
    return Build(
        kernel,
        types | dict.fromkeys(_TILE, "constexpr"),
        _TILE,
        ptx_of={
            89: ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",),
            90: ("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16",),
            100: ("tcgen05.mma.cta_group::1.kind::f16",),
            120: ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",),
        },
        num_stages=NUM_STAGES,
    )


BUILDS = [
    _build(grad_a_kernel, {"through_b": "*bf16"} | _CODES, _SIZES),
    _build(
        grad_b_kernel,
        {"o_a": "*bf16"} | _CODES | {"weight_scale": "*fp32"},
        (*_SIZES, "first_end", "second_end"),
    ),
]
