"""Fold a step into quantized rows in place, without a base: stochastic rounding, so that small
steps survive on average.

`qdata[i], scale[i] = stochastic_quantize_row(qdata[i] * scale[i] + scaling * delta[i] . a)`: a
value between two neighbours of the grid goes up with the probability of its distance from the lower
one, so the expected value of what is stored is the exact sum, and a value on the grid stays. A
fresh power-of-two scale is taken from the row's largest magnitude; where it grows, the coarser grid
is rounded to the same way. What is given up against the anchored rule: noise of up to one code step
per fold, that adds up over the steps, for not keeping a base (method.md section 3).

The random bits of an element are a pure function of (seed, step, layer_index, row, column), the
same on every rank, after every resume, on CPU and on GPU: Philox-4x32-10 (Salmon et al., "Parallel
Random Numbers: As Easy as 1, 2, 3", SC 2011), counter (column // 4, row, step, layer_index), key
(seed, 0), word column % 4. It is what torch, JAX and cuRAND use, passes BigCrush, has published
test vectors, and its four words serve four columns. Twenty of the 32 bits are used: fp32 has 23
mantissa bits, e4m3 three, so adding twenty random bits below the last kept one and cutting off is
stochastic rounding, carry included.

What is exact and what is not: bits and rounding agree everywhere. The sum delta . a is added in the
device's order, so between CPU and GPU, as with any fp32 product, its last bits may differ, and once
in about 2^20 elements such a bit decides a rounding. Ranks that run the same kernel agree in every
bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import jit, power_of_two, power_of_two_exponent, tl
from falqon_core.ops.quantize import counter, power_of_two_scale, row_amax, row_blocks
from falqon_core.ops.row_tiles import build, launch, low_rank_tile, write_tile
from falqon_core.ops.samples import Draw, SampleInput, codes_in_place

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_MIN_NORMAL = 2.0**-6


def philox(counter: tuple[Tensor | int, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Compute Philox-4x32-10: from four counter words and two key words, integers in [0, 2^32),
    four words of random bits, int64 in [0, 2^32).
    """
    c0, c1, c2, c3 = (torch.as_tensor(word, dtype=torch.int64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        # 64-bit products; int64 wraps, and the mask drops the sign.
        low = c0 * _MULTIPLIERS[0]
        high = c2 * _MULTIPLIERS[1]
        c0 = (high >> 32 & _WORD) ^ c1 ^ k0
        c1 = high & _WORD
        c2 = (low >> 32 & _WORD) ^ c3 ^ k1
        c3 = low & _WORD
        k0 = k0 + _WEYL[0] & _WORD
        k1 = k1 + _WEYL[1] & _WORD
    return c0, c1, c2, c3


def random_bits(
    rows: slice, num_columns: int, seed: int, step: int, layer_index: int, device: torch.device
) -> Tensor:
    """Return int64 [rows, num_columns], each 32 random bits; seed, step and layer_index lie in
    [0, 2^31).
    """
    row = torch.arange(rows.start, rows.stop, device=device)[:, None]
    # One call of Philox gives four words, for four neighbouring columns.
    quad = torch.arange(-(-num_columns // 4), device=device)[None, :]
    words = philox((quad, row, step, layer_index), (seed, 0))
    return torch.stack(torch.broadcast_tensors(*words), 2).flatten(1)[:, :num_columns]


def random_bytes(
    rows: slice, num_columns: int, seed: int, step: int, layer_index: int, device: torch.device
) -> Tensor:
    """Return int16 [rows, num_columns], each 0 to 255, from one word a row and one a column.

    The byte is the sum of a row's and a column's, modulo 256: uniform, and any two elements are
    independent, which is all that the mean and the variance of a sum of roundings depend on; four
    at the corners of a rectangle are not. It costs an addition an element, where `random_bits`
    costs a hundred operations for four.
    """
    of_row = _first_bytes(0, rows, seed, step, layer_index, device)
    of_column = _first_bytes(1, slice(0, num_columns), seed, step, layer_index, device)
    return (of_row[:, None] + of_column[None, :]).bitwise_and_(255)


def _first_bytes(
    axis: int, places: slice, seed: int, step: int, layer_index: int, device: torch.device
) -> Tensor:
    quad = torch.arange(places.start // 4, -(-places.stop // 4), device=device)
    # The key's second word, 1, keeps these apart from `random_bits`; the axis rows from columns.
    words = torch.stack(philox((quad, axis, step, layer_index), (seed, 1)), 1).flatten()
    start = places.start % 4
    return (words[start : start + places.stop - places.start] >> 24).to(torch.int16)


def round_stochastically(values: Tensor, bits: Tensor) -> Tensor:
    """Round fp32 values, |values| <= 448, to a neighbour on e4m3's grid, in fp32; bits int64 of the
    same shape, of which the upper twenty count.
    """
    magnitude = values.abs()
    # Subnormals are lifted into the binade that has their spacing.
    shift = (magnitude < _MIN_NORMAL).float() * _MIN_NORMAL
    # e4m3 keeps 3 of fp32's 23 mantissa bits; 20 random bits are added below the last kept one.
    raised = (magnitude + shift).view(torch.int32) + (bits >> 12).int()
    # The lower 20 bits are cut off; a carry has gone up with probability distance / spacing.
    magnitude = (raised & -0x100000).view(torch.float32) - shift
    return torch.where(values < 0, 0.0 - magnitude, magnitude)


@operator
def fold_stochastic(
    qdata: Tensor,
    scale: Tensor,
    delta: Tensor,
    a: Tensor,
    scaling: float,
    seed: int,
    step: int,
    layer_index: int,
    changed: Tensor | None = None,
) -> Tensor:
    """qdata e4m3 [O, I] and scale fp32 [O, 1], powers of two, are overwritten.

    delta fp32 [O, r] is the step to fold, a bf16 [r, I] (dequantized, exact); scaling * delta is
    rounded to bf16, their product is fp32. seed, step and layer_index (the layer's index in the
    model) are integers in [0, 2^31). Return the number of changed codes, int64 []: `changed`, to
    which it is added, or a new tensor.
    """
    scaled = (delta * scaling).to(a.dtype).float()
    a = a.float()
    changed = counter(changed, qdata)
    for at in row_blocks(qdata.shape):
        # fp32 [rows, I]: the old values, exact, plus the step.
        values = (qdata[at].float() * scale[at]).addmm_(scaled[at], a)
        scale[at] = power_of_two_scale(row_amax(values))
        # int64 [rows, I]; keyed by the row's index in the weight, so the cut into blocks does not
        # matter.
        bits = random_bits(at, qdata.shape[1], seed, step, layer_index, qdata.device)
        new = round_stochastically(values / scale[at], bits).to(torch.float8_e4m3fn)
        changed += torch.count_nonzero(qdata[at].float() != new.float())
        qdata[at] = new
    return changed


@fold_stochastic.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    weight = (draw.codes(48, 144), draw.scales(48, 1))
    delta = draw.normal(48, 16, dtype=torch.float32)
    yield SampleInput((*weight, delta, draw.normal(16, 144), 0.5, 5, 3, 2), codes_in_place)


@jit
def random_tile(row, quad, seed, step, layer_index):
    """Return `random_bits` of the rows [BR] and the quads of columns [BC / 4] given: uint32 [BR,
    BC].
    """
    zero = tl.zeros((row.shape[0], quad.shape[0]), tl.uint32)
    c0 = zero + quad.to(tl.uint32)[None, :]
    c1 = zero + row.to(tl.uint32)[:, None]
    c2 = zero + step.to(tl.uint32)
    c3 = zero + layer_index.to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, zero + seed.to(tl.uint32), zero)
    # Word j of a quad belongs to its column j: w0 w1 w2 w3 side by side.
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@jit
def stochastic_tile(value, bits):
    """Round as `round_stochastically` does."""
    magnitude = tl.abs(value)
    shift = tl.where(magnitude < 0.015625, 0.015625, 0.0)
    raised = (magnitude + shift).to(tl.int32, bitcast=True) + (bits >> 12).to(tl.int32)
    magnitude = (raised & -0x100000).to(tl.float32, bitcast=True) - shift
    return tl.where(value < 0.0, 0.0 - magnitude, magnitude)


@jit
def summed_tile(
    qdata,
    old_scale,
    delta,
    a,
    scaling,
    row,
    column,
    num_rows,
    num_columns,
    rank,
    BLOCK_RANK: tl.constexpr,
):
    """Return qdata * old_scale + scaling * delta . a of the rows [BR] and columns [BC], fp32 [BR,
    BC].
    """
    inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    at = qdata + row[:, None] * num_columns + column[None, :]
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32) * old_scale
    return value + low_rank_tile(
        delta, a, scaling, row, column, num_rows, num_columns, rank, BLOCK_RANK
    )


@jit(do_not_specialize=["seed", "step", "layer_index"])
def stochastic_kernel(
    qdata,
    scale,
    delta,
    a,
    scaling,
    seed,
    step,
    layer_index,
    changed,
    num_rows,
    num_columns,
    rank,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
):
    """Fold into `BLOCK_ROWS` rows a program, as `refresh.refresh_kernel` does, with the codes in
    the place of the base: all are read before the first is written.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_COLUMNS)
    old_scale = tl.load(scale + row, mask=row < num_rows, other=0.0)[:, None]
    largest = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    # First pass: the largest magnitude of each row decides its new scale.
    for start in range(0, num_columns, BLOCK_COLUMNS):
        value = summed_tile(
            qdata,
            old_scale,
            delta,
            a,
            scaling,
            row,
            start + columns,
            num_rows,
            num_columns,
            rank,
            BLOCK_RANK,
        )
        largest = tl.maximum(largest, tl.abs(value))
    exponent = power_of_two_exponent(tl.max(largest, 1))
    inverse = power_of_two(-exponent)[:, None]
    count = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.int32)
    # All threads have read the old scales before one of them is overwritten.
    tl.debug_barrier()
    tl.store(scale + row, power_of_two(exponent), mask=row < num_rows)
    # Second pass: the same sums, in the same order, are rounded and written.
    for start in range(0, num_columns, BLOCK_COLUMNS):
        column = start + columns
        value = summed_tile(
            qdata,
            old_scale,
            delta,
            a,
            scaling,
            row,
            column,
            num_rows,
            num_columns,
            rank,
            BLOCK_RANK,
        )
        bits = random_tile(
            row, start // 4 + tl.arange(0, BLOCK_COLUMNS // 4), seed, step, layer_index
        )
        value = stochastic_tile(value * inverse, bits)
        count += write_tile(qdata, value, row, column, num_rows, num_columns)
    tl.atomic_add(changed, tl.sum(count).to(tl.int64))


def fold_stochastic_triton(
    qdata: Tensor,
    scale: Tensor,
    delta: Tensor,
    a: Tensor,
    scaling: float,
    seed: int,
    step: int,
    layer_index: int,
    changed: Tensor | None = None,
) -> Tensor:
    """Launch the kernel over all rows."""
    return launch(
        stochastic_kernel,
        qdata,
        scale,
        delta,
        a,
        scaling,
        seed,
        step,
        layer_index,
        changed=changed,
        rank=a.shape[0],
    )


fold_stochastic.kernels["cuda"] = fold_stochastic_triton

_ARGUMENTS = {"delta": "*fp32", "a": "*bf16", "scaling": "fp32"}
BUILDS = [
    build(stochastic_kernel, _ARGUMENTS | dict.fromkeys(("seed", "step", "layer_index"), "i32"))
]
