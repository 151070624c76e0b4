"""Rotary positions (RoFormer, arXiv 2104.09864) on the joined product of q, k and v, and backward
to the codes that the GEMM of grad_input reads.

A row holds the heads of q, then of k, then of v, D columns each, as the GEMM of a packed weight
leaves them. All D are rotated, column i with column i + D / 2. Forward is in place: q and k take
the room of what they are made of, so attention, which keeps q, k and v, keeps that one buffer and
no other; v is not touched unless there is a bias. Backward turns the gradients of q and k back,
for the gradients of the deltas, and quantizes the three joined, times the scales of the weight's
rows, in one launch. A program of it writes a row and reads it again from cache once its scale is
known, so it holds one tile of heads, and its registers do not grow with the model.

Rounding is that of transformers' `apply_rotary_pos_emb` and its autograd: each product, and their
sum, in the working dtype. What is given up: heads that are rotated in part, and norms between
projection and rotation (Qwen3).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    CVT_E4M3,
    Build,
    jit,
    power_of_two,
    power_of_two_exponent,
    round_to,
    rows_of,
    tl,
    to_e4m3,
)
from falqon_core.ops.quantize import load_scaled, quantize_codes
from falqon_core.ops.samples import Draw, Sample, codes_last, result_alone

TILE = 1024  # pairs that one program of 4 warps holds: 8 of each half in a thread


@operator
def rotate_qkv_(
    qkv: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Add the bias to the first sum(sizes) columns of qkv [T, C], and rotate the heads of q and k;
    in place. -> qkv.

    `sizes`: the columns of q, k and v, multiples of D. bias [sum(sizes)] or None; cos, sin [P, D]
    of the P positions, where P divides T and row t is at position t mod P; all of qkv's dtype.
    """
    if bias is not None:
        qkv[:, : sum(sizes)] += bias
    rotated = qkv[:, : sizes[0] + sizes[1]]
    rotated.copy_(_turned(rotated, cos, sin, _rotate_half))
    return qkv


@operator
def unrotate_qkv_codes(
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> (gradients [T, O_q + O_k] of the q and k that `rotate_qkv_` was given, qdata float8_e4m3fn
    [T, sum O], scale fp32 [T, 1]).

    grad_query, grad_key, grad_value [T, O_j] of one dtype, cos and sin as in `rotate_qkv_`. The
    codes are of the three gradients, joined, times weight_scale (fp32 [sum O]), per token, as
    `quantize_codes` makes them.
    """
    query, key = (_turned(x, cos, sin, _unrotate_half) for x in (grad_query, grad_key))
    joined = torch.cat([query, key, grad_value], 1)
    grads = joined[:, : query.shape[1] + key.shape[1]]
    return grads, *quantize_codes.oracle(joined, weight_scale)


@rotate_qkv_.tried_on
def _forward_samples(draw: Draw) -> Iterator[Sample]:
    tables = draw.normal(3, 16), draw.normal(3, 16)
    for bias in (None, draw.normal(96)):
        yield Sample((draw.normal(9, 112), bias, *tables, (64, 16, 16)), result_alone)


@unrotate_qkv_codes.tried_on
def _backward_samples(draw: Draw) -> Iterator[Sample]:
    grads = draw.normal(9, 64), *draw.halves(9, 16)
    tables = draw.normal(3, 16), draw.normal(3, 16)
    yield Sample((*grads, *tables, draw.scales(96)), codes_last)


def _rotate_half(x: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1) * sin


def _unrotate_half(x: Tensor, sin: Tensor) -> Tensor:
    first, second = (x * sin).chunk(2, -1)
    return torch.cat([second, -first], -1)


def _turned(
    x: Tensor, cos: Tensor, sin: Tensor, turn_half: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Turn all heads of x [T, H * D]."""
    num_repeats = len(x) // len(cos)
    cos, sin = (table.repeat(num_repeats, 1).unsqueeze(1) for table in (cos, sin))
    heads = x.unflatten(1, (-1, cos.shape[-1]))
    return (heads * cos + turn_half(heads, sin)).flatten(1)


@jit
def _turn(first, second, cos, sin, half, HEAD_DIM: tl.constexpr, BACKWARD: tl.constexpr):
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
    """One tile of heads a program; beyond `NUM_ROTATED` they get their bias only."""
    HALF: tl.constexpr = HEAD_DIM // 2
    row = tl.program_id(0).to(tl.int64)
    position = (row % num_positions) * HEAD_DIM
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
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
    turned_first, turned_second = _turn(
        first, second, cos + position, sin + position, half, HEAD_DIM, False
    )
    is_rotated = (head < NUM_ROTATED)[:, None]
    tl.store(at, tl.where(is_rotated, turned_first, first), mask=inside)
    tl.store(at + HALF, tl.where(is_rotated, turned_second, second), mask=inside)


@jit
def _scaled(value, weight_scale, inside):
    """Return |value * weight_scale|, rounded as the oracle does, fp32."""
    scale = tl.load(weight_scale, mask=inside, other=0.0)
    return tl.abs(round_to(value.to(tl.float32) * scale, value.dtype).to(tl.float32))


@jit
def _unrotate_part(
    grad,
    grads,
    weight_scale,
    cos,
    sin,
    largest,
    NUM_HEADS: tl.constexpr,
    IS_ROTATED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """Turn one row of q or k into `grads`, read one of v; -> the largest scaled magnitudes."""
    HALF: tl.constexpr = HEAD_DIM // 2
    half = tl.arange(0, BLOCK_HALF)
    for start in range(0, NUM_HEADS, BLOCK_HEADS):
        head = start + tl.arange(0, BLOCK_HEADS)
        inside = (head < NUM_HEADS)[:, None] & (half < HALF)[None, :]
        column = head[:, None] * HEAD_DIM + half[None, :]
        first = tl.load(grad + column, mask=inside, other=0.0)
        second = tl.load(grad + column + HALF, mask=inside, other=0.0)
        if IS_ROTATED:
            first, second = _turn(first, second, cos, sin, half, HEAD_DIM, True)
            tl.store(grads + column, first, mask=inside)
            tl.store(grads + column + HALF, second, mask=inside)
        largest = tl.maximum(largest, _scaled(first, weight_scale + column, inside))
        largest = tl.maximum(largest, _scaled(second, weight_scale + column + HALF, inside))
    return largest


@jit
def _write_codes(x, weight_scale, qdata, inverse, NUM_COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    for start in range(0, NUM_COLUMNS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        value = load_scaled(x, weight_scale, columns, NUM_COLUMNS, True)
        tl.store(qdata + columns, to_e4m3(value * inverse), mask=columns < NUM_COLUMNS)


@jit(do_not_specialize=["num_positions"])
def unrotate_qkv_codes_kernel(
    grad_query,
    grad_key,
    grad_value,
    cos,
    sin,
    weight_scale,
    grads,
    qdata,
    scale,
    query_stride,
    key_stride,
    value_stride,
    num_positions,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """One row a program."""
    KEYS_AT: tl.constexpr = NUM_HEADS * HEAD_DIM
    VALUES_AT: tl.constexpr = KEYS_AT + NUM_KV_HEADS * HEAD_DIM
    NUM_COLUMNS: tl.constexpr = VALUES_AT + NUM_KV_HEADS * HEAD_DIM
    BLOCK: tl.constexpr = 2 * BLOCK_HEADS * BLOCK_HALF
    row = tl.program_id(0).to(tl.int64)
    position = (row % num_positions) * HEAD_DIM
    cos += position
    sin += position
    grads += row * VALUES_AT
    grad_value += row * value_stride
    qdata += row * NUM_COLUMNS
    largest = tl.zeros((BLOCK_HEADS, BLOCK_HALF), tl.float32)
    largest = _unrotate_part(
        grad_query + row * query_stride,
        grads,
        weight_scale,
        cos,
        sin,
        largest,
        NUM_HEADS,
        True,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )
    largest = _unrotate_part(
        grad_key + row * key_stride,
        grads + KEYS_AT,
        weight_scale + KEYS_AT,
        cos,
        sin,
        largest,
        NUM_KV_HEADS,
        True,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )
    largest = _unrotate_part(
        grad_value,
        grads,
        weight_scale + VALUES_AT,
        cos,
        sin,
        largest,
        NUM_KV_HEADS,
        False,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )
    exponent = power_of_two_exponent(tl.max(tl.max(largest, 1), 0))
    tl.store(scale + row, power_of_two(exponent))
    inverse = power_of_two(-exponent)
    tl.debug_barrier()  # the row is written before any thread reads it again
    _write_codes(grads, weight_scale, qdata, inverse, VALUES_AT, BLOCK)
    weight_scale += VALUES_AT
    qdata += VALUES_AT
    _write_codes(grad_value, weight_scale, qdata, inverse, NUM_COLUMNS - VALUES_AT, BLOCK)


def rotate_qkv_triton(
    qkv: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor, sizes: Sequence[int]
) -> Tensor:
    cos = rows_of(cos).contiguous()
    sin = rows_of(sin).contiguous()
    num_positions, head_dim = cos.shape
    num_rotated = (sizes[0] + sizes[1]) // head_dim
    num_heads = num_rotated if bias is None else sum(sizes) // head_dim
    tile = _tile_of(head_dim)
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


def unrotate_qkv_codes_triton(
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    parts = [rows_of(grad) for grad in (grad_query, grad_key, grad_value)]
    cos = rows_of(cos).contiguous()
    sin = rows_of(sin).contiguous()
    num_positions, head_dim = cos.shape
    num_rows = len(grad_query)
    grads = grad_query.new_empty(num_rows, parts[0].shape[1] + parts[1].shape[1])
    num_columns = grads.shape[1] + parts[2].shape[1]
    qdata = grads.new_empty(num_rows, num_columns, dtype=torch.float8_e4m3fn)
    scale = torch.empty(num_rows, 1, device=grads.device)
    unrotate_qkv_codes_kernel[(len(grads),)](
        *parts,
        cos,
        sin,
        weight_scale.contiguous(),
        grads,
        qdata,
        scale,
        *(part.stride(0) for part in parts),
        num_positions,
        NUM_HEADS=parts[0].shape[1] // head_dim,
        NUM_KV_HEADS=parts[1].shape[1] // head_dim,
        HEAD_DIM=head_dim,
        **_tile_of(head_dim),
    )
    return grads, qdata, scale


def _tile_of(head_dim: int) -> dict[str, int]:
    block_half = 1 << (head_dim // 2 - 1).bit_length()
    return {"BLOCK_HEADS": max(1, TILE // block_half), "BLOCK_HALF": block_half}


rotate_qkv_.kernels["cuda"] = rotate_qkv_triton
unrotate_qkv_codes.kernels["cuda"] = unrotate_qkv_codes_triton

_TABLES = {"cos": "*bf16", "sin": "*bf16"}
_TILE = dict.fromkeys(("HEAD_DIM", "BLOCK_HEADS", "BLOCK_HALF"), "constexpr")
_ROTATE = {"qkv": "*bf16", "bias": "*bf16"} | _TABLES | {"stride": "i32", "num_positions": "i32"}
_ROTATE |= dict.fromkeys(("NUM_ROTATED", "NUM_HEADS", "HEAD_DIM", "HAS_BIAS"), "constexpr") | _TILE
_UNROTATE = dict.fromkeys(("grad_query", "grad_key", "grad_value"), "*bf16") | _TABLES
_UNROTATE |= {"weight_scale": "*fp32", "grads": "*bf16", "qdata": "*fp8e4nv", "scale": "*fp32"}
_UNROTATE |= dict.fromkeys(("query_stride", "key_stride", "value_stride", "num_positions"), "i32")
_UNROTATE |= dict.fromkeys(("NUM_HEADS", "NUM_KV_HEADS"), "constexpr") | _TILE
BUILDS = [
    Build(
        rotate_qkv_kernel,
        _ROTATE,
        {"NUM_ROTATED": rotated, "NUM_HEADS": heads, "HEAD_DIM": 128, "HAS_BIAS": has_bias}
        | _tile_of(128),
    )
    for rotated, heads, has_bias in ((64, 64, False), (32, 36, True))
] + [
    Build(
        unrotate_qkv_codes_kernel,
        _UNROTATE,
        {"NUM_HEADS": 32, "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": 128} | _tile_of(128),
        ptx=(CVT_E4M3, "bar.sync"),
    )
    for num_kv_heads in (32, 8)
]
