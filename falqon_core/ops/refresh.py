"""Rebuild the quantized rows of a melded linear from its immutable base and its delta: the anchored
rule's write to the weight.

`rows[i], scale[i] = quantize_row(base[i] + scaling * delta[i] . a)`, in place. The base is moved
off the ties of the grid (offset.py), so that the smallest delta changes next to no code.

The work goes in blocks of rows so that the fp32 intermediates stay in the cache, in buffers that
all blocks share. The product of delta and a is a GEMM in A's dtype (bf16), three times as fast as
fp32; its rounding, 2^-9 of the delta, is far below the grid's spacing, 2^-4 of the weight. What is
given up: two rows never share a block's arithmetic, so there is no saving when only few rows
changed.

The kernel is one launch, in tiles (row_tiles.py). A program passes once over its rows' columns: it
writes codes by the scales that the rows have, and finds the scales that they should have. A step
moves the largest magnitude of few rows past a power of two, and only where it did the program
passes again. The tensor cores add in another order than the oracle, so a value within fp32 rounding
of a tie may fall to the other neighbour. What is given up: the old codes are gone by the second
pass, so that in a row whose scale moves every code counts as changed, zeros too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    inverse_power_of_two,
    jit,
    power_of_two,
    power_of_two_exponent,
    tl,
)
from falqon_core.ops.matmul import widen
from falqon_core.ops.offset import add_offset_, offset_tile
from falqon_core.ops.quantize import (
    codes_of,
    count_changed,
    counter,
    power_of_two_scale,
    round_to_grid_,
    row_amax,
    row_blocks,
)
from falqon_core.ops.row_tiles import build, launch, low_rank_tile, write_tile
from falqon_core.ops.samples import Draw, SampleInput, codes_in_place

BLOCK_ELEMENTS = 2**18  # 1 MiB of fp32: measured best from 2^17 to 2^19 with 1 MiB of L2 per core


@operator
def refresh_rows(
    rows: Tensor,
    scale: Tensor,
    base: Tensor,
    base_scale: Tensor | None,
    delta: Tensor,
    a: Tensor,
    scaling: float,
    changed: Tensor | None = None,
    first_row: int = 0,
) -> Tensor:
    """rows [O, I] and scale fp32 [O, 1] are overwritten; base [O, I] in rows' dtype, or int8 with
    base_scale fp32 [O, 1]; a [r, I] in rows' dtype, delta fp32 [O, r]; `first_row` is the index in
    the weight of the first of these rows.

    Return the number of the rows' values that changed, int64 []: `changed`, to which it is added,
    or a new tensor.
    """
    # bf16 [O, r]: scaled in fp32, rounded once.
    scaled = (delta * scaling).to(a.dtype)
    changed = counter(changed, rows)
    left, right = widen(scaled), widen(a)
    num_rows = min(len(rows), max(1, BLOCK_ELEMENTS // rows.shape[1]))
    fp32 = rows.new_empty(num_rows, rows.shape[1], dtype=torch.float32)
    narrow = torch.empty_like(fp32, dtype=rows.dtype)
    for at in row_blocks(base.shape, BLOCK_ELEMENTS):
        buffer, new = fp32[: at.stop - at.start], narrow[: at.stop - at.start]
        product = torch.mm(left[at], right, out=new if left.dtype == new.dtype else buffer)
        # fp32 [rows, I] = base + bf16 product; only this block of rows exists in fp32.
        values = base_values(base, base_scale, at, first_row).add_(new.copy_(product))
        # fp32 [rows, 1]; a row whose largest weight crosses a power of two gets another scale.
        scale[at] = power_of_two_scale(row_amax(values))
        new.copy_(round_to_grid_(values, scale[at], buffer))
        changed += count_changed(rows[at], new)
        rows[at] = new
    return changed


@operator
def refresh_codes(
    qdata: Tensor,
    scale: Tensor,
    base: Tensor,
    base_scale: Tensor | None,
    delta: Tensor,
    a: Tensor,
    scaling: float,
    changed: Tensor | None = None,
    first_row: int = 0,
) -> Tensor:
    """Rebuild codes in the same way, for FP8 GPUs: qdata e4m3 [O, I] and scale fp32 [O, 1] are
    overwritten.

    base bf16 [O, I], or int8 with base_scale fp32 [O, 1]; delta fp32 [O, r], a bf16 [r, I]
    (dequantized, exact). The product of delta and a is added in fp32. `first_row` is the index in
    the weight of the first of these rows. Return the number of changed codes, all of a row whose
    scale moves, int64 []: `changed`, to which it is added, or a new tensor.
    """
    # Rounded to bf16 as the tensor cores read it, then multiplied in fp32 as they add.
    scaled = (delta * scaling).to(a.dtype).float()
    a = a.float()
    changed = counter(changed, qdata)
    for at in row_blocks(base.shape):
        values = base_values(base, base_scale, at, first_row)
        values.addmm_(scaled[at], a)
        new_scale = power_of_two_scale(row_amax(values))
        new = codes_of(round_to_grid_(values, new_scale), new_scale)
        # A mask, bool [rows].
        is_moved = (new_scale != scale[at]).squeeze(1)
        changed += count_changed(qdata[at][~is_moved], new[~is_moved])
        changed += is_moved.sum() * new.shape[1]
        qdata[at] = new
        scale[at] = new_scale
    return changed


def base_values(base: Tensor, base_scale: Tensor | None, at: slice, first_row: int) -> Tensor:
    """Return rows of the base as new fp32 [rows, I], off the ties."""
    values = base[at].to(torch.float32, copy=True)
    if base_scale is not None:
        values.mul_(base_scale[at])
    if base.dtype == torch.float32:  # Next to no weight lies on a tie.
        return values
    return add_offset_(values, first_row + at.start)


@refresh_codes.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    weight = (draw.codes(48, 144), draw.scales(48, 1))
    delta = draw.normal(48, 16, dtype=torch.float32)
    integers = draw.normal(48, 144, deviation=40.0).clamp(-127, 127).to(torch.int8)
    for base in ((draw.normal(48, 144), None), (integers, draw.scales(48, 1) * 1.2)):
        arguments = (*weight, *base, delta, draw.normal(16, 144), 0.5, None, 5)
        yield SampleInput(arguments, codes_in_place)


@jit
def base_tile(
    base, base_scale, first_row, row, column, num_rows, num_columns, HAS_SCALE: tl.constexpr
):
    """Return the base of the rows [BR] and columns [BC] given, fp32 [BR, BC]."""
    inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    value = tl.load(base + row[:, None] * num_columns + column[None, :], mask=inside, other=0)
    value = value.to(tl.float32)
    if HAS_SCALE:
        scale = tl.load(base_scale + row, mask=row < num_rows, other=0.0)
        value *= scale[:, None]
    return value * offset_tile(first_row + row, column)


@jit(do_not_specialize=["first_row"])
def refresh_kernel(
    qdata,
    scale,
    base,
    base_scale,
    delta,
    a,
    scaling,
    first_row,
    changed,
    num_rows,
    num_columns,
    rank,
    HAS_SCALE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
):
    """Rebuild `BLOCK_ROWS` rows a program; `changed` int64 [] is added to."""
    # [BR] rows a program; int64, because rows times columns exceeds 2^31 in the largest weights.
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_COLUMNS)
    old_scale = tl.load(scale + row, mask=row < num_rows, other=1.0)
    inverse = inverse_power_of_two(old_scale)[:, None]
    largest = tl.zeros((BLOCK_ROWS,), tl.float32)
    count = tl.zeros((BLOCK_ROWS,), tl.int32)
    for start in range(0, num_columns, BLOCK_COLUMNS):
        column = start + columns
        value = base_tile(
            base, base_scale, first_row, row, column, num_rows, num_columns, HAS_SCALE
        )
        value += low_rank_tile(
            delta, a, scaling, row, column, num_rows, num_columns, rank, BLOCK_RANK
        )
        # [BR]: the largest magnitude of each row decides its scale.
        largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
        # Written by the old scale; right for all rows whose scale stays, which are nearly all.
        count += tl.sum(write_tile(qdata, value * inverse, row, column, num_rows, num_columns), 1)
    exponent = power_of_two_exponent(largest)
    new_scale = power_of_two(exponent)
    is_moved = (row < num_rows) & (new_scale != old_scale)
    inverse = power_of_two(-exponent)[:, None]
    tl.debug_barrier()  # All threads have read the scales and written their codes.
    tl.store(scale + row, new_scale, mask=row < num_rows)
    # A loop of zero rounds where no row's scale moved; the others repeat the whole tile.
    num_again = tl.where(tl.max(is_moved.to(tl.int32), 0) > 0, num_columns, 0)
    for start in range(0, num_again, BLOCK_COLUMNS):
        column = start + columns
        value = base_tile(
            base, base_scale, first_row, row, column, num_rows, num_columns, HAS_SCALE
        )
        value += low_rank_tile(
            delta, a, scaling, row, column, num_rows, num_columns, rank, BLOCK_RANK
        )
        write_tile(qdata, value * inverse, row, column, num_rows, num_columns)
    # Old codes of moved rows are overwritten by the first pass, so all count as changed.
    row_count = tl.where(is_moved, num_columns, count)
    tl.atomic_add(changed, tl.sum(row_count).to(tl.int64))


def refresh_codes_triton(
    qdata: Tensor,
    scale: Tensor,
    base: Tensor,
    base_scale: Tensor | None,
    delta: Tensor,
    a: Tensor,
    scaling: float,
    changed: Tensor | None = None,
    first_row: int = 0,
) -> Tensor:
    """Launch the kernel over all rows; one launch a linear."""
    has_scale = base_scale is not None
    return launch(
        refresh_kernel,
        qdata,
        scale,
        base,
        base_scale if has_scale else scale,
        delta,
        a,
        scaling,
        first_row,
        changed=changed,
        rank=a.shape[0],
        HAS_SCALE=has_scale,
    )


refresh_codes.kernels["cuda"] = refresh_codes_triton

_ARGUMENTS = {
    "base_scale": "*fp32",
    "delta": "*fp32",
    "a": "*bf16",
    "scaling": "fp32",
    "first_row": "i32",
}
BUILDS = [
    build(refresh_kernel, {"base": kind} | _ARGUMENTS, {"HAS_SCALE": kind == "*i8"})
    for kind in ("*bf16", "*i8")
]
