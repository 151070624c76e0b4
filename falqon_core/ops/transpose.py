"""Transpose the codes of a weight, for the FP8 GEMM that contracts over its outputs.

FP8 tensor cores read both operands along the contraction axis (scaled_mm.py). A weight lies along
its inputs, as output needs it; grad_input contracts over the outputs. Storing both layouts takes a
second byte a weight; one weight at a time, transposed when its turn comes, takes two passes over
it, 13 GB a backward pass for 7B, and no memory that lasts: the allocator hands the same block to
the next weight.
"""

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import Build, jit, tl
from falqon_core.ops.samples import SampleInput, result_alone

BLOCK = 128  # Rows and columns of a tile; whole sectors are read and written.
NUM_WARPS = 8


@operator
def transpose_codes(qdata: Tensor) -> Tensor:
    """Return qdata float8_e4m3fn [O, I] as [I, O], both contiguous, with the same bits."""
    return qdata.view(torch.uint8).t().contiguous().view(qdata.dtype)


transpose_codes.tried_on(lambda draw: [SampleInput((draw.codes(48, 144),), result_alone)])


@jit
def transpose_kernel(qdata, transposed, num_rows, num_columns, BLOCK: tl.constexpr):
    """Transpose one tile a program, as bytes."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    tile = tl.load(qdata + row[:, None] * num_columns + column[None, :], mask=inside)
    tl.store(
        # The tile is turned in registers, so that reads and writes both run along rows.
        transposed + column[:, None] * num_rows + row[None, :],
        tl.trans(tile),
        mask=tl.trans(inside),
    )


def transpose_codes_triton(qdata: Tensor) -> Tensor:
    """Launch the kernel on the bytes of the codes."""
    num_rows, num_columns = qdata.shape
    transposed = torch.empty(num_columns, num_rows, dtype=torch.uint8, device=qdata.device)
    transpose_kernel[(-(-num_rows // BLOCK), -(-num_columns // BLOCK))](
        qdata.view(torch.uint8),
        transposed,
        num_rows,
        num_columns,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return transposed.view(qdata.dtype)


transpose_codes.kernels["cuda"] = transpose_codes_triton

BUILDS = [
    Build(
        transpose_kernel,
        {
            "qdata": "*u8",
            "transposed": "*u8",
            "num_rows": "i32",
            "num_columns": "i32",
            "BLOCK": "constexpr",
        },
        {"BLOCK": BLOCK},
        ptx=("st.global.v4",),
        num_warps=NUM_WARPS,
    )
]
