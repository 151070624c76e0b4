"""Backward of rotary positions (rope_qkv.py), to the codes that the GEMM of grad_input reads.

The gradients of q and k are turned back, and the three are joined and quantized, times the scales
of the weight's rows, in one launch. A program reads its row again from cache, and turns it again,
once its scale is known, so it holds one tile of heads, and its registers do not grow with the
model. Rounding is that of autograd through transformers' `apply_rotary_pos_emb`.
"""

from collections.abc import Iterator

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
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.rope_qkv import TABLE_TYPES, TILE_CONSTANTS, tile_of, turn_heads, turn_pairs
from falqon_core.ops.samples import Draw, SampleInput, codes_first


@operator
def unrotate_qkv_codes(
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight_scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (qdata float8_e4m3fn [T, sum O], scale fp32 [T, 1]) of the gradients of the q and k
    that `rotate_qkv_` was given, and of v.

    grad_query, grad_key, grad_value [T, O_j] of one dtype, cos and sin as in `rotate_qkv_`. The
    codes are of the three gradients, joined, times weight_scale (fp32 [sum O]), per token, as
    `quantize_codes` makes them.
    """
    query, key = (turn_heads(x, cos, sin, _unrotate_half) for x in (grad_query, grad_key))
    return quantize_codes.oracle(torch.cat([query, key, grad_value], 1), weight_scale)


@unrotate_qkv_codes.tried_on
def _backward_samples(draw: Draw) -> Iterator[SampleInput]:
    grads = draw.normal(9, 64), *draw.halves(9, 16)
    tables = draw.normal(3, 16), draw.normal(3, 16)
    yield SampleInput((*grads, *tables, draw.scales(96)), codes_first)


def _unrotate_half(x: Tensor, sin: Tensor) -> Tensor:
    first, second = (x * sin).chunk(2, -1)
    return torch.cat([second, -first], -1)


@jit
def _scaled(value, weight_scale, inside):
    """Return value * weight_scale, rounded as the oracle does, fp32."""
    scale = tl.load(weight_scale, mask=inside, other=0.0)
    return round_to(value.to(tl.float32) * scale, value.dtype).to(tl.float32)


@jit
def _unrotate_part(
    grad,
    weight_scale,
    cos,
    sin,
    qdata,
    inverse,
    largest,
    NUM_HEADS: tl.constexpr,
    IS_ROTATED: tl.constexpr,
    TO_CODES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """Turn one row of q or k, or read one of v. Return the largest scaled magnitudes; with
    `TO_CODES` the codes go to `qdata`.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    half = tl.arange(0, BLOCK_HALF)
    for start in range(0, NUM_HEADS, BLOCK_HEADS):
        head = start + tl.arange(0, BLOCK_HEADS)
        inside = (head < NUM_HEADS)[:, None] & (half < HALF)[None, :]
        column = head[:, None] * HEAD_DIM + half[None, :]
        first = tl.load(grad + column, mask=inside, other=0.0)
        second = tl.load(grad + column + HALF, mask=inside, other=0.0)
        if IS_ROTATED:
            first, second = turn_pairs(first, second, cos, sin, half, HEAD_DIM, True)
        left = _scaled(first, weight_scale + column, inside)
        right = _scaled(second, weight_scale + column + HALF, inside)
        if TO_CODES:
            tl.store(qdata + column, to_e4m3(left * inverse), mask=inside)
            tl.store(qdata + column + HALF, to_e4m3(right * inverse), mask=inside)
        else:
            largest = tl.maximum(largest, tl.maximum(tl.abs(left), tl.abs(right)))
    return largest


@jit
def _unrotate_row(
    grad_query,
    grad_key,
    grad_value,
    weight_scale,
    cos,
    sin,
    qdata,
    inverse,
    TO_CODES: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """Pass over one row of q, then k, then v. Return the largest scaled magnitudes, or with
    `TO_CODES` write the codes.
    """
    # Columns of q start at 0, those of k and v here, in the order of the weight's rows.
    KEYS_AT: tl.constexpr = NUM_HEADS * HEAD_DIM
    VALUES_AT: tl.constexpr = KEYS_AT + NUM_KV_HEADS * HEAD_DIM
    largest = tl.zeros((BLOCK_HEADS, BLOCK_HALF), tl.float32)
    largest = _unrotate_part(
        grad_query,
        weight_scale,
        cos,
        sin,
        qdata,
        inverse,
        largest,
        NUM_HEADS,
        True,
        TO_CODES,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )
    largest = _unrotate_part(
        grad_key,
        weight_scale + KEYS_AT,
        cos,
        sin,
        qdata + KEYS_AT,
        inverse,
        largest,
        NUM_KV_HEADS,
        True,
        TO_CODES,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )
    return _unrotate_part(
        grad_value,
        weight_scale + VALUES_AT,
        cos,
        sin,
        qdata + VALUES_AT,
        inverse,
        largest,
        NUM_KV_HEADS,
        False,
        TO_CODES,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )


@jit(do_not_specialize=["num_positions"])
def unrotate_qkv_codes_kernel(
    grad_query,
    grad_key,
    grad_value,
    cos,
    sin,
    weight_scale,
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
    """Turn and quantize one row a program."""
    row = tl.program_id(0).to(tl.int64)
    position = (row % num_positions) * HEAD_DIM
    cos += position
    sin += position
    grad_query += row * query_stride
    grad_key += row * key_stride
    grad_value += row * value_stride
    qdata += row * (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
    largest = _unrotate_row(
        grad_query,
        grad_key,
        grad_value,
        weight_scale,
        cos,
        sin,
        qdata,
        1.0,
        False,
        NUM_HEADS,
        NUM_KV_HEADS,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )
    # One scale a token for all three, since grad_input contracts over them together.
    exponent = power_of_two_exponent(tl.max(tl.max(largest, 1), 0))
    tl.store(scale + row, power_of_two(exponent))
    _unrotate_row(
        grad_query,
        grad_key,
        grad_value,
        weight_scale,
        cos,
        sin,
        qdata,
        power_of_two(-exponent),
        True,
        NUM_HEADS,
        NUM_KV_HEADS,
        HEAD_DIM,
        BLOCK_HEADS,
        BLOCK_HALF,
    )


def unrotate_qkv_codes_triton(
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight_scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel, one program a token."""
    parts = [rows_of(grad) for grad in (grad_query, grad_key, grad_value)]
    cos = rows_of(cos).contiguous()
    sin = rows_of(sin).contiguous()
    num_positions, head_dim = cos.shape
    num_rows = len(grad_query)
    num_columns = sum(part.shape[1] for part in parts)
    qdata = grad_query.new_empty(num_rows, num_columns, dtype=torch.float8_e4m3fn)
    scale = torch.empty(num_rows, 1, device=qdata.device)
    unrotate_qkv_codes_kernel[(num_rows,)](
        *parts,
        cos,
        sin,
        weight_scale.contiguous(),
        qdata,
        scale,
        *(part.stride(0) for part in parts),
        num_positions,
        NUM_HEADS=parts[0].shape[1] // head_dim,
        NUM_KV_HEADS=parts[1].shape[1] // head_dim,
        HEAD_DIM=head_dim,
        **tile_of(head_dim),
    )
    return qdata, scale


unrotate_qkv_codes.kernels["cuda"] = unrotate_qkv_codes_triton

_UNROTATE = dict.fromkeys(("grad_query", "grad_key", "grad_value"), "*bf16") | TABLE_TYPES
_UNROTATE |= {"weight_scale": "*fp32", "qdata": "*fp8e4nv", "scale": "*fp32"}
_UNROTATE |= dict.fromkeys(("query_stride", "key_stride", "value_stride", "num_positions"), "i32")
_UNROTATE |= dict.fromkeys(("NUM_HEADS", "NUM_KV_HEADS"), "constexpr") | TILE_CONSTANTS
BUILDS = [
    Build(
        unrotate_qkv_codes_kernel,
        _UNROTATE,
        {"NUM_HEADS": 32, "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": 128} | tile_of(128),
        ptx=(CVT_E4M3,),
    )
    for num_kv_heads in (32, 8)
]
