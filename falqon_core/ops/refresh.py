"""Rebuild the quantized rows of a melded linear from its immutable base and its delta: the anchored rule's write to the weight.

`rows[i], scale[i] = quantize_row(base[i] + factor * delta[i] . a)`, in place. The work goes in blocks of rows so that the fp32
intermediates stay in the cache: 5 ms instead of 9 ms for one layer of SmolLM2-135M on two cores. The product of delta and a is a
GEMM in the base's dtype (bf16), three times as fast as fp32; its rounding, 2^-9 of the delta, is far below the grid's spacing,
2^-4 of the weight. What is given up: two rows never share a block's arithmetic, so there is no saving when only few rows changed.

The kernel is one launch. A program holds `BLOCK_ROWS` rows and passes twice over their columns, first for the largest magnitudes, then
to write both layouts; the second pass multiplies again instead of keeping sums, since A is small and stays in cache. The tensor cores
add in another order than the oracle, so a value within fp32 rounding of a tie may fall to the other neighbour.
"""

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import CVT_E4M3, Build, dot_bf16, jit, power_of_two, power_of_two_exponent, round_to, tl, to_e4m3
from falqon_core.ops.quantize import codes_of, power_of_two_scale, round_to_grid_, row_amax

BLOCK_ELEMENTS = 2**18  # 1 MiB of fp32: measured best from 2^17 to 2^19 with 1 MiB of L2 per core


@operator
def refresh_rows(rows: Tensor, scale: Tensor, base: Tensor, delta: Tensor, a: Tensor, factor: float) -> Tensor:
    """rows [O, I] and scale fp32 [O, 1] are overwritten; base [O, I] and a [r, I] in rows' dtype, delta fp32 [O, r].

    -> how many of the rows' values changed, int64 [].
    """
    scaled = (delta * factor).to(base.dtype)
    changed = torch.zeros((), dtype=torch.int64, device=rows.device)
    block = max(1, BLOCK_ELEMENTS // base.shape[1])
    for start in range(0, base.shape[0], block):
        at = slice(start, start + block)
        values = base[at].to(torch.float32, copy=True).add_(scaled[at] @ a)
        scale[at] = power_of_two_scale(row_amax(values))
        new = round_to_grid_(values, scale[at]).to(rows.dtype)
        changed += torch.count_nonzero(rows[at] != new)
        rows[at] = new
    return changed


@operator
def refresh_codes(codes: Tensor, codes_t: Tensor | None, scale: Tensor, base: Tensor, delta: Tensor, a: Tensor, factor: float) -> Tensor:
    """The same on codes, for FP8 GPUs: codes e4m3 [O, I], codes_t e4m3 [I, O] and scale fp32 [O, 1] are overwritten.

    `codes_t` is the second layout, contiguous along O, that the GEMM of grad_input reads, or columns of that of a group of linears; None
    where nobody needs it. base bf16 [O, I],
    delta fp32 [O, r], a bf16 [r, I] (dequantized, exact). The product of delta and a is added in fp32. -> changed codes, int64 [].
    """
    values = base.float().addmm_((delta * factor).to(base.dtype).float(), a.float())
    scale.copy_(power_of_two_scale(row_amax(values)))
    new = codes_of(round_to_grid_(values, scale), scale)
    changed = torch.count_nonzero(codes.view(torch.uint8) != new.view(torch.uint8))
    codes.copy_(new)
    if codes_t is not None:
        codes_t.copy_(new.t())
    return changed


@jit
def low_rank_tile(delta, a, factor, row, column, num_rows, num_columns, rank, BLOCK_RANK: tl.constexpr):
    """(factor * delta, rounded to bf16) . a for the rows [BR] and columns [BC] given, fp32 [BR, BC]; outside of both it is zero."""
    k = tl.arange(0, BLOCK_RANK)
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, rank, BLOCK_RANK):
        left_inside = (row < num_rows)[:, None] & (start + k < rank)[None, :]
        left = tl.load(delta + row[:, None] * rank + (start + k)[None, :], mask=left_inside, other=0.0) * factor
        right_inside = (start + k < rank)[:, None] & (column < num_columns)[None, :]
        right = tl.load(a + (start + k)[:, None].to(tl.int64) * num_columns + column[None, :], mask=right_inside, other=0.0)
        total += dot_bf16(round_to(left, tl.bfloat16), right)
    return total


@jit
def write_tile(codes, codes_t, stride_t, value, row, column, num_rows, num_columns, HAS_T: tl.constexpr):
    """Write codes (fp32 values that e4m3 holds or rounds, [BR, BC]) to both layouts -> how many differ from what stood there."""
    inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    at = codes + row[:, None] * num_columns + column[None, :]
    old = tl.load(at, mask=inside, other=0.0)
    new = to_e4m3(value)
    changed = tl.sum((inside & (old.to(tl.float32) != new.to(tl.float32))).to(tl.int32))
    tl.debug_barrier()  # all threads have read before any of them writes
    tl.store(at, new, mask=inside)
    if HAS_T:
        tl.store(codes_t + column[None, :].to(tl.int64) * stride_t + row[:, None], new, mask=inside)
    return changed


@jit
def refresh_kernel(
    codes,
    codes_t,
    scale,
    base,
    delta,
    a,
    factor,
    changed,
    num_rows,
    num_columns,
    rank,
    stride_t,
    HAS_T: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_COLUMNS)
    amax = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, num_columns, BLOCK_COLUMNS):
        column = start + columns
        inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
        value = tl.load(base + row[:, None] * num_columns + column[None, :], mask=inside, other=0.0).to(tl.float32)
        value += low_rank_tile(delta, a, factor, row, column, num_rows, num_columns, rank, BLOCK_RANK)
        amax = tl.maximum(amax, tl.max(tl.abs(value), 1))
    exponent = power_of_two_exponent(amax)
    tl.store(scale + row, power_of_two(exponent), mask=row < num_rows)
    inverse = power_of_two(-exponent)[:, None]
    count = 0
    for start in range(0, num_columns, BLOCK_COLUMNS):
        column = start + columns
        inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
        value = tl.load(base + row[:, None] * num_columns + column[None, :], mask=inside, other=0.0).to(tl.float32)
        value += low_rank_tile(delta, a, factor, row, column, num_rows, num_columns, rank, BLOCK_RANK)
        count += write_tile(codes, codes_t, stride_t, value * inverse, row, column, num_rows, num_columns, HAS_T)
    tl.atomic_add(changed, count.to(tl.int64))


# 32 rows: the transposed layout is written in whole sectors of 32 bytes. 64 columns in two stages: about 130 registers a thread, where
# 128 columns take 250 (benchmarks/results/compile_matrix.csv).
BLOCK_ROWS, BLOCK_COLUMNS, NUM_STAGES = 32, 64, 2


def block_rank(rank: int) -> int:
    """Ranks that one product takes: a power of two, at least 16 as tensor cores want it; the rest is masked."""
    return min(64, max(16, 1 << (rank - 1).bit_length()))


def refresh_codes_triton(
    codes: Tensor, codes_t: Tensor | None, scale: Tensor, base: Tensor, delta: Tensor, a: Tensor, factor: float
) -> Tensor:
    num_rows, num_columns = codes.shape
    changed = torch.zeros((), dtype=torch.int64, device=codes.device)
    refresh_kernel[(-(-num_rows // BLOCK_ROWS),)](
        codes,
        codes if codes_t is None else codes_t,
        scale,
        base,
        delta,
        a,
        factor,
        changed,
        num_rows,
        num_columns,
        a.shape[0],
        0 if codes_t is None else codes_t.stride(0),
        HAS_T=codes_t is not None,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COLUMNS=BLOCK_COLUMNS,
        BLOCK_RANK=block_rank(a.shape[0]),
        num_stages=NUM_STAGES,
    )
    return changed


refresh_codes.kernels["cuda"] = refresh_codes_triton

TILE_CONSTANTS = {"HAS_T": True, "BLOCK_ROWS": BLOCK_ROWS, "BLOCK_COLUMNS": BLOCK_COLUMNS, "BLOCK_RANK": 64}
_SIGNATURE = {"codes": "*fp8e4nv", "codes_t": "*fp8e4nv", "scale": "*fp32", "base": "*bf16", "delta": "*fp32", "a": "*bf16"}
_SIGNATURE |= {"factor": "fp32", "changed": "*i64", "num_rows": "i32", "num_columns": "i32", "rank": "i32", "stride_t": "i32"}
BUILDS = [
    Build(
        refresh_kernel,
        _SIGNATURE | dict.fromkeys(TILE_CONSTANTS, "constexpr"),
        TILE_CONSTANTS,
        ptx=(CVT_E4M3, "bf16.bf16.f32", "atom.global"),
        num_stages=NUM_STAGES,
    ),
]
