"""The shared parts of kernels that rewrite whole rows of a weight.

A program holds `BLOCK_ROWS` rows and passes over their columns in tiles.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from falqon_core.ops.kernels import CVT_E4M3, Build, dot_bf16, jit, round_to, tl, to_e4m3
from falqon_core.ops.quantize import counter

# The fewest rows that a tensor core takes: a linear of 4096 outputs gives 256 programs, where the
# largest GPUs have 132 to 160 multiprocessors. 128 columns, so that whole lines of a cache are read
# and written.
BLOCK_ROWS = 16
BLOCK_COLUMNS = 128
NUM_STAGES = 2


@jit
def low_rank_tile(
    delta, a, scaling, row, column, num_rows, num_columns, rank, BLOCK_RANK: tl.constexpr
):
    """Return (scaling * delta, rounded to bf16) . a for the rows [BR] and columns [BC] given, fp32
    [BR, BC]; outside of both it is zero.
    """
    k = tl.arange(0, BLOCK_RANK)
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, rank, BLOCK_RANK):
        # Tile of delta [BR, BK]: fp32, scaled, then bf16 for the tensor cores.
        left_inside = (row < num_rows)[:, None] & (start + k < rank)[None, :]
        left = (
            tl.load(delta + row[:, None] * rank + (start + k)[None, :], mask=left_inside, other=0.0)
            * scaling
        )
        # Tile of a [BK, BC], bf16.
        right_inside = (start + k < rank)[:, None] & (column < num_columns)[None, :]
        right = tl.load(
            a + (start + k)[:, None].to(tl.int64) * num_columns + column[None, :],
            mask=right_inside,
            other=0.0,
        )
        # The tensor cores add in fp32.
        total += dot_bf16(round_to(left, tl.bfloat16), right)
    return total


@jit
def write_tile(qdata, value, row, column, num_rows, num_columns):
    """Write codes (fp32 values that e4m3 holds or rounds, [BR, BC]). Return 1 where a code differs
    from the old one, int32 [BR, BC].
    """
    inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    at = qdata + row[:, None] * num_columns + column[None, :]
    old = tl.load(at, mask=inside, other=0.0)
    new = to_e4m3(value)
    changed = (inside & (old.to(tl.float32) != new.to(tl.float32))).to(tl.int32)
    tl.debug_barrier()  # All threads have read before any of them writes.
    tl.store(at, new, mask=inside)
    return changed


def launch(
    kernel: Any,
    qdata: Tensor,
    scale: Tensor,
    *arguments: Any,
    changed: Tensor | None,
    rank: int,
    **constants: object,
) -> Tensor:
    """Run `kernel`, which has further `constants`, over all rows of `qdata`. Return the number of
    codes that it changed, int64 []: `changed`, to which it is added, or a new tensor.
    """
    num_rows, num_columns = qdata.shape
    changed = counter(changed, qdata)
    kernel[(-(-num_rows // BLOCK_ROWS),)](
        qdata,
        scale,
        *arguments,
        changed,
        num_rows,
        num_columns,
        rank,
        **constants,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COLUMNS=BLOCK_COLUMNS,
        BLOCK_RANK=block_rank(rank),
        num_stages=NUM_STAGES,
    )
    return changed


def block_rank(rank: int) -> int:
    """Return the ranks of one product: a power of two, at least 16 as tensor cores want it; the
    rest is masked.
    """
    return min(64, max(16, 1 << (rank - 1).bit_length()))


def build(
    kernel: Any, arguments: Mapping[str, str], further_constants: Mapping[str, object] | None = None
) -> Build:
    """Return the build of a kernel that takes `arguments` between scale and changed."""
    constants = {
        **(further_constants or {}),
        "BLOCK_ROWS": BLOCK_ROWS,
        "BLOCK_COLUMNS": BLOCK_COLUMNS,
        "BLOCK_RANK": 64,
    }
    weight = {"qdata": "*fp8e4nv", "scale": "*fp32"}
    shape = dict.fromkeys(("num_rows", "num_columns", "rank"), "i32")
    signature = weight | dict(arguments) | {"changed": "*i64"} | shape
    return Build(
        kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        constants,
        ptx=(CVT_E4M3, "bf16.bf16.f32", "atom.global"),
        num_stages=NUM_STAGES,
    )
