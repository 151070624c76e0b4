"""The published row-wise proxy update (FALQON, arXiv 2510.24061) on codes: fold the delta into the
chosen rows, in place.

`qdata[i] = round(clamp(qdata[i] + delta[i] . a / scale, +-448))` for the rows i chosen, to nearest,
with the scale as it is: in the units of the codes that is `W_q[i] += B_i . A_q`, because W and A
share their scale. `meld/update.py` holds the rule around it (the choice of rows, and the delta
afterwards) and the same arithmetic on dequantized values. The delta stays fp32 in the product, as
there: k is small (10 as published), so the kernel multiplies without tensor cores, one program a
row and block of columns, and the sum is that of fp32 in the order of the ranks. What is given up,
by the rule: a step smaller than half a code is lost; by the kernel: reuse of A between rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import CVT_E4M3, Build, jit, power_of_two, tl, to_e4m3
from falqon_core.ops.quantize import E4M3_MAX, added, codes_of, counter, round_to_grid_
from falqon_core.ops.samples import Draw, SampleInput, codes_in_place


@operator
def fold_rows(
    qdata: Tensor,
    scale: Tensor,
    delta: Tensor,
    a: Tensor,
    rows: Tensor,
    changed: Tensor | None = None,
) -> Tensor:
    """qdata e4m3 [O, I] is overwritten in the rows named, int64 [k], each at most once.

    scale fp32 [O, 1], powers of two, stays; delta fp32 [O, r], a bf16 [r, I] (dequantized, exact).
    Return the number of changed codes, int64 []: `changed`, to which it is added, or a new tensor.
    """
    # fp32 [k, 1]
    chosen = scale[rows]
    # torch indexes no e4m3, so bytes are taken.
    old = qdata.view(torch.uint8)[rows].view(qdata.dtype)
    # fp32 [k, I]
    values = (old.float() * chosen).addmm_(delta[rows], a.float())
    limit = E4M3_MAX * chosen
    new = codes_of(
        round_to_grid_(torch.minimum(torch.maximum(values, -limit), limit), chosen), chosen
    )
    qdata.view(torch.uint8)[rows] = new.view(torch.uint8)
    return added(changed, torch.count_nonzero(old.float() != new.float()))


@fold_rows.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    weight = (draw.codes(48, 144), draw.scales(48, 1))
    delta = draw.normal(48, 16, dtype=torch.float32)
    rows = torch.tensor([40, 3, 17], device=draw.device)
    yield SampleInput((*weight, delta, draw.normal(16, 144), rows), codes_in_place)


@jit
def fold_rows_kernel(
    qdata,
    scale,
    delta,
    a,
    rows,
    changed,
    num_columns,
    rank,
    BLOCK: tl.constexpr,
):
    """Fold one block of columns of one chosen row a program."""
    row = tl.load(rows + tl.program_id(0))
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(0, rank):
        a_row = tl.load(a + tl.cast(k, tl.int64) * num_columns + column, mask=inside, other=0.0)
        # One fp32 product and sum a rank, in the order of the ranks.
        total += tl.load(delta + row * rank + k) * a_row.to(tl.float32)
    row_scale = tl.load(scale + row)
    old = tl.load(qdata + row * num_columns + column, mask=inside, other=0.0)
    # 1 / scale from the exponent bits: exact, unlike a GPU's fast division.
    inverse = power_of_two(127 - (row_scale.to(tl.int32, bitcast=True) >> 23))
    value = (old.to(tl.float32) * row_scale + total) * inverse
    # Clamped first: the rule lets codes saturate, and the cast must not wrap.
    new = to_e4m3(tl.minimum(tl.maximum(value, -448.0), 448.0))
    tl.atomic_add(
        changed,
        tl.sum((inside & (old.to(tl.float32) != new.to(tl.float32))).to(tl.int32)).to(tl.int64),
    )
    tl.store(qdata + row * num_columns + column, new, mask=inside)


BLOCK = 512


def fold_rows_triton(
    qdata: Tensor,
    scale: Tensor,
    delta: Tensor,
    a: Tensor,
    rows: Tensor,
    changed: Tensor | None = None,
) -> Tensor:
    """Launch the kernel over the k rows and their blocks of columns."""
    num_columns = qdata.shape[1]
    changed = counter(changed, qdata)
    fold_rows_kernel[(rows.shape[0], -(-num_columns // BLOCK))](
        qdata,
        scale,
        delta,
        a,
        rows,
        changed,
        num_columns,
        a.shape[0],
        BLOCK=BLOCK,
    )
    return changed


fold_rows.kernels["cuda"] = fold_rows_triton

_SIGNATURE = {
    "qdata": "*fp8e4nv",
    "scale": "*fp32",
    "delta": "*fp32",
    "a": "*bf16",
    "rows": "*i64",
}
_SIGNATURE |= {
    "changed": "*i64",
    "num_columns": "i32",
    "rank": "i32",
    "BLOCK": "constexpr",
}
BUILDS = [Build(fold_rows_kernel, _SIGNATURE, {"BLOCK": BLOCK}, ptx=(CVT_E4M3, "atom.global"))]
