"""Rotary positions (RoFormer, arXiv 2104.09864) on the joined product of q, k and v, in place.

A row holds the heads of q, then of k, then of v, D columns each, as the GEMM of a packed weight
leaves them. All D are rotated, column i with column i + D / 2. q and k take the room of the
products that they are made of, so attention, which keeps q, k and v, keeps that one buffer and no
other; v is not touched unless there is a bias. Backward is rope_qkv_backward.py.

Rounding is that of transformers' `apply_rotary_pos_emb`: each product, and their sum, in the
working dtype. What is given up: heads that are rotated in part, and norms between projection and
rotation (Qwen3).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    Build,
    jit,
    round_to,
    rows_of,
    tl,
)
from falqon_core.ops.samples import Draw, SampleInput, result_alone

PAIRS_PER_TILE = 1024  # Pairs that one program of 4 warps holds: 8 of each half in a thread.


@operator
def rotate_qkv_(
    qkv: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Add the bias to the first sum(sizes) columns of qkv [T, C], and rotate the heads of q and k,
    in place. Return qkv.

    `sizes`: the columns of q, k and v, multiples of D. bias [sum(sizes)] or None; cos, sin [P, D]
    of the P positions, where P divides T and row t is at position t mod P; all of qkv's dtype.
    """
    if bias is not None:
        qkv[:, : sum(sizes)] += bias
    # q and k lie side by side, so both are rotated as heads of one tensor.
    rotated = qkv[:, : sizes[0] + sizes[1]]
    rotated.copy_(turn_heads(rotated, cos, sin, _rotate_half))
    return qkv


@rotate_qkv_.tried_on
def _forward_samples(draw: Draw) -> Iterator[SampleInput]:
    tables = draw.normal(3, 16), draw.normal(3, 16)
    for bias in (None, draw.normal(96)):
        yield SampleInput((draw.normal(9, 112), bias, *tables, (64, 16, 16)), result_alone)


def _rotate_half(x: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1) * sin


def turn_heads(
    x: Tensor, cos: Tensor, sin: Tensor, turn_half: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Turn all heads of x [T, H * D]."""
    # One position serves row t of every sequence of the batch.
    num_repeats = len(x) // len(cos)
    cos, sin = (table.repeat(num_repeats, 1).unsqueeze(1) for table in (cos, sin))
    # [T, heads, D]
    heads = x.unflatten(1, (-1, cos.shape[-1]))
    return (heads * cos + turn_half(heads, sin)).flatten(1)


@jit
def turn_pairs(first, second, cos, sin, half, HEAD_DIM: tl.constexpr, BACKWARD: tl.constexpr):
    """Turn pairs [heads, halves], rounded as the oracles do; cos and sin point to a position."""
    HALF: tl.constexpr = HEAD_DIM // 2
    dtype: tl.constexpr = first.dtype
    inside = half < HALF
    cos_first = tl.load(cos + half, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos_second = tl.load(cos + HALF + half, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_first = tl.load(sin + half, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_second = tl.load(sin + HALF + half, mask=inside, other=0.0).to(tl.float32)[None, :]
    x = first.to(tl.float32)
    y = second.to(tl.float32)
    # [x', y'] = [x cos - y sin, y cos + x sin]; backward turns by the negative angle.
    if BACKWARD:
        from_y = round_to(y * sin_second, dtype).to(tl.float32)
        from_x = -round_to(x * sin_first, dtype).to(tl.float32)
    else:
        from_y = -round_to(y * sin_first, dtype).to(tl.float32)
        from_x = round_to(x * sin_second, dtype).to(tl.float32)
    first = round_to(round_to(x * cos_first, dtype).to(tl.float32) + from_y, dtype)
    second = round_to(round_to(y * cos_second, dtype).to(tl.float32) + from_x, dtype)
    return first, second


@jit(do_not_specialize=["num_positions"])
def rotate_qkv_kernel(
    qkv,
    bias,
    cos,
    sin,
    stride,
    num_positions,
    NUM_ROTATED: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """Rotate one tile of heads a program; beyond `NUM_ROTATED` they get their bias only."""
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.program_id(0).to(tl.int64)
    position = (row % num_positions) * HEAD_DIM
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    # Column i of a head is paired with column i + D / 2.
    half = tl.arange(0, BLOCK_HALF)
    inside = (head < NUM_HEADS)[:, None] & (half < HALF)[None, :]
    column = head[:, None] * HEAD_DIM + half[None, :]
    at = qkv + row * stride + column
    first = tl.load(at, mask=inside, other=0.0)
    second = tl.load(at + HALF, mask=inside, other=0.0)
    if HAS_BIAS:
        dtype: tl.constexpr = first.dtype
        of_first = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        of_second = tl.load(bias + column + HALF, mask=inside, other=0.0).to(tl.float32)
        first = round_to(first.to(tl.float32) + of_first, dtype)
        second = round_to(second.to(tl.float32) + of_second, dtype)
    turned_first, turned_second = turn_pairs(
        first, second, cos + position, sin + position, half, HEAD_DIM, False
    )
    is_rotated = (head < NUM_ROTATED)[:, None]
    tl.store(at, tl.where(is_rotated, turned_first, first), mask=inside)
    tl.store(at + HALF, tl.where(is_rotated, turned_second, second), mask=inside)


def rotate_qkv_triton(
    qkv: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Launch the kernel over rows and tiles of heads, in place."""
    cos = rows_of(cos).contiguous()
    sin = rows_of(sin).contiguous()
    num_positions, head_dim = cos.shape
    num_rotated = (sizes[0] + sizes[1]) // head_dim
    # Without a bias v is not touched.
    num_heads = num_rotated if bias is None else sum(sizes) // head_dim
    tile = tile_of(head_dim)
    touched = qkv[:, : num_heads * head_dim]
    rotate_qkv_kernel[(len(qkv), -(-num_heads // tile["BLOCK_HEADS"]))](
        touched,
        touched if bias is None else bias,
        cos,
        sin,
        qkv.stride(0),
        num_positions,
        NUM_ROTATED=num_rotated,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        HAS_BIAS=bias is not None,
        **tile,
    )
    return qkv


def tile_of(head_dim: int) -> dict[str, int]:
    """Return the heads and half columns of one tile, powers of two."""
    block_half = 1 << (head_dim // 2 - 1).bit_length()
    return {"BLOCK_HEADS": max(1, PAIRS_PER_TILE // block_half), "BLOCK_HALF": block_half}


rotate_qkv_.kernels["cuda"] = rotate_qkv_triton

TABLE_TYPES = {"cos": "*bf16", "sin": "*bf16"}
TILE_CONSTANTS = dict.fromkeys(("HEAD_DIM", "BLOCK_HEADS", "BLOCK_HALF"), "constexpr")
_ROTATE = (
    {"qkv": "*bf16", "bias": "*bf16"} | TABLE_TYPES | {"stride": "i32", "num_positions": "i32"}
)
_ROTATE |= (
    dict.fromkeys(("NUM_ROTATED", "NUM_HEADS", "HEAD_DIM", "HAS_BIAS"), "constexpr")
    | TILE_CONSTANTS
)
BUILDS = [
    Build(
        rotate_qkv_kernel,
        _ROTATE,
        {"NUM_ROTATED": rotated, "NUM_HEADS": heads, "HEAD_DIM": 128, "HAS_BIAS": has_bias}
        | tile_of(128),
    )
    for rotated, heads, has_bias in ((64, 64, False), (32, 36, True))
]
