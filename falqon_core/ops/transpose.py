"""Transpose the codes of a weight, for the FP8 GEMM that contracts over its outputs, and append
those of the deltas (delta_codes.py).

FP8 tensor cores read both operands along the contraction axis (scaled_mm.py). A weight lies along
its inputs, as output needs it; grad_input contracts over the outputs. Storing both layouts takes a
second byte a weight; one weight at a time, transposed when its turn comes, takes two passes over
it, 13 GB a backward pass for 7B, and no memory that lasts: the allocator hands the same block to
the next weight.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import MAX_LINEARS, Build, jit, tl
from falqon_core.ops.samples import Draw, SampleInput, result_alone

BLOCK = 128  # Rows and columns of a tile; whole sectors are read and written.
NUM_WARPS = 8


@operator
def transpose_codes(
    qdata: Tensor,
    deltas: Tensor | None = None,
    sizes: Sequence[int] = (),
    num_appended: int = 0,
) -> Tensor:
    """Return qdata float8_e4m3fn [O, I] as [I, O], with the same bits.

    With `deltas` (codes [r, O] of linears of `sizes` outputs, O in sum) `num_appended` rows follow:
    r of each linear, which hold its columns of `deltas` and are zero elsewhere, then zeros.
    """
    bits = qdata.view(torch.uint8).t()
    if deltas is None:
        return bits.contiguous().view(qdata.dtype)
    parts = (part.view(torch.uint8) for part in deltas.split(list(sizes), 1))
    appended = torch.block_diag(*parts)
    filling = appended.new_zeros(num_appended - len(appended), appended.shape[1])
    return torch.cat([bits, appended, filling]).view(qdata.dtype)


@transpose_codes.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    yield SampleInput((draw.codes(48, 144),), result_alone)
    yield SampleInput((draw.codes(128, 144), draw.codes(7, 128), (80, 16, 32), 32), result_alone)


@jit
def transpose_kernel(
    qdata,
    deltas,
    transposed,
    num_rows,
    num_columns,
    num_appended,
    rank,
    first_end,
    second_end,
    BLOCK: tl.constexpr,
):
    """Transpose one tile a program, or append one, as bytes; the linears' rows end at `first_end`,
    `second_end` and `num_rows`.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.program_id(1).to(tl.int64)
    num_tiles = tl.cdiv(num_columns, BLOCK)
    if tile < num_tiles:
        column = tile * BLOCK + tl.arange(0, BLOCK)
        inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
        codes = tl.load(qdata + row[:, None] * num_columns + column[None, :], mask=inside)
        tl.store(
            # The tile is turned in registers, so that reads and writes both run along rows.
            transposed + column[:, None] * num_rows + row[None, :],
            tl.trans(codes),
            mask=tl.trans(inside),
        )
    else:
        appended = (tile - num_tiles) * BLOCK + tl.arange(0, BLOCK)
        inside = (appended < num_appended)[:, None] & (row < num_rows)[None, :]
        # Each linear has `rank` rows, and its codes where its own columns are.
        index = (row >= first_end).to(tl.int32) + (row >= second_end).to(tl.int32)
        source = appended[:, None] - (index * rank)[None, :]
        codes = tl.load(
            deltas + source * num_rows + row[None, :],
            mask=inside & (source >= 0) & (source < rank),
            other=0,
        )
        target = (num_columns + appended)[:, None] * num_rows + row[None, :]
        tl.store(transposed + target, codes, mask=inside)


def transpose_codes_triton(
    qdata: Tensor,
    deltas: Tensor | None = None,
    sizes: Sequence[int] = (),
    num_appended: int = 0,
) -> Tensor:
    """Launch the kernel on the bytes of the codes. The oracle computes groups of more than three
    linears.
    """
    if len(sizes) > MAX_LINEARS:
        return transpose_codes.oracle(qdata, deltas, sizes, num_appended)
    num_rows, num_columns = qdata.shape
    shape = num_columns + num_appended, num_rows
    transposed = torch.empty(shape, dtype=torch.uint8, device=qdata.device)
    num_tiles = -(-num_columns // BLOCK) + -(-num_appended // BLOCK)
    transpose_kernel[(-(-num_rows // BLOCK), num_tiles)](
        qdata.view(torch.uint8),
        # A kernel takes no None; without rows to append it is never read.
        (qdata if deltas is None else deltas).view(torch.uint8),
        transposed,
        num_rows,
        num_columns,
        num_appended,
        0 if deltas is None else len(deltas),
        sum(sizes[:1]),
        sum(sizes[:2]),
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return transposed.view(qdata.dtype)


transpose_codes.kernels["cuda"] = transpose_codes_triton

_SIZES = ("num_rows", "num_columns", "num_appended", "rank", "first_end", "second_end")
BUILDS = [
    Build(
        transpose_kernel,
        dict.fromkeys(("qdata", "deltas", "transposed"), "*u8")
        | dict.fromkeys(_SIZES, "i32")
        | {"BLOCK": "constexpr"},
        {"BLOCK": BLOCK},
        ptx=("st.global.v4",),
        num_warps=NUM_WARPS,
    )
]
