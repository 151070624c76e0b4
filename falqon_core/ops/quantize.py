"""Rowwise quantization to e4m3: as values on the grid (what a CPU computes with), or as codes (what
an FP8 GPU computes with).

Row i of x [R, C] becomes `code * scale[i]`, code in e4m3 (torch.float8_e4m3fn: 3 mantissa bits, at
most 448). The same operator serves weights (a row is an output channel) and activations (a row is a
token).

Scales are powers of two: the smallest with which the row's largest magnitude stays within 448, so
nothing saturates. That costs one binade of e4m3's eighteen and no precision, and buys three things:
a value on the grid has four significant bits, so a bf16 tensor holds it *exactly*; rounding to the
grid is rounding to four significant bits, without a multiplication by 1 / scale; and code = value /
scale is exact, so codes are derived when a file is written and never kept.

Rounding is float arithmetic: adding and subtracting 1.5 * 2^20 * 2^e, where 2^e is the binade of
the value, leaves the nearest multiple of 2^(e-3), ties to even. On CPU that takes half the time of
casting to float8 and back (1.5 against 2.9 ms for a refresh of 1536 x 576 in row blocks on two
cores with AVX512). What is given up: rows that hold NaN or infinity are undefined.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    CVT_E4M3,
    Build,
    block_of,
    jit,
    power_of_two,
    power_of_two_exponent,
    round_to,
    rows_of,
    tl,
    to_e4m3,
    warps_of,
)
from falqon_core.ops.samples import Draw, SampleInput, codes_first, rounded_in_place

E4M3_MAX = 448.0  # 0.875 * 2^9
_MIN_NORMAL = 2.0**-6
_EXPONENT_BITS = 0x7F800000
_MAGIC = 1.5 * 2.0**20  # 23 mantissa bits of fp32, of which 3 are to be left


# Oracles hold this many fp32 values at a time: 32 MiB, where a whole weight may be a gigabyte.
BLOCK_ELEMENTS = 2**23


def row_blocks(shape: torch.Size, elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Yield slices that cover the rows of [R, C], of at most `elements` elements where a row has
    fewer.
    """
    num_rows, num_columns = shape
    block = max(1, elements // num_columns)
    for start in range(0, num_rows, block):
        yield slice(start, min(start + block, num_rows))


def power_of_two_scale(amax: Tensor) -> Tensor:
    """Return the smallest power of two (fp32, same shape) with amax / scale <= 448; amax is
    non-negative fp32. Zero gives 2^-9.
    """
    # With amax = fraction * 2^exponent, fraction in [0.5, 1): 448 is 0.875 * 2^9.
    fraction, exponent = torch.frexp(amax)
    exponent = exponent - 9 + (fraction > 0.875).to(exponent.dtype)
    # The bound is far above fp32's subnormals even after 2^-9.
    return torch.ldexp(torch.ones_like(amax), exponent.clamp(min=-100))


def round_to_grid_(values: Tensor, scale: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Round fp32 values [R, C], |values| <= 448 * scale, in place to e4m3 codes times scale ([R, 1]
    or one element, powers of two). `buffer`, fp32 [R, C], is overwritten.
    """
    # The exponent bits alone are the power of two at or below the magnitude; fp32 [R, C].
    binade = torch.empty_like(values) if buffer is None else buffer
    bits = binade.view(torch.int32)
    torch.bitwise_and(values.view(torch.int32), _EXPONENT_BITS, out=bits)
    # Subnormals share the spacing of the smallest normal.
    torch.maximum(binade, scale * _MIN_NORMAL, out=binade)
    # The sum has its last mantissa bit at 2^(e-3), so the addition itself rounds, ties to even.
    return values.add_(binade, alpha=_MAGIC).sub_(binade, alpha=_MAGIC)


def row_amax(values: Tensor) -> Tensor:
    """Return the largest magnitude of each row, [R, 1]; two reductions are faster than a copy of
    |values|.
    """
    return torch.maximum(values.amax(1, keepdim=True), -values.amin(1, keepdim=True))


def divide(values: Tensor, divisor: float) -> Tensor:
    """Return float values [..], with an axis at least, over a number: the same bits on every
    device. CUDA multiplies by the rounded inverse of what is a number, or stands on the CPU.
    """
    return values / torch.full((1,), divisor, dtype=values.dtype, device=values.device)


def count_changed(old: Tensor, new: Tensor) -> Tensor:
    """Return the number of values of two tensors, of one shape and dtype, that differ in a bit,
    int64 []. On a CPU this takes a quarter of the time that `!=` does on bf16, which was 4 % of a
    training step.
    """
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[old.element_size()]
    return torch.count_nonzero(old.view(integer) ^ new.view(integer))


def counter(changed: Tensor | None, like: Tensor) -> Tensor:
    """Return `changed`, int64 [], to which numbers of changed values are added, or a new zero on
    the device of `like`.
    """
    if changed is None:
        return torch.zeros((), dtype=torch.int64, device=like.device)
    return changed


def added(changed: Tensor | None, number: Tensor) -> Tensor:
    """Return `changed` with `number` added to it in place, or `number` itself."""
    return number if changed is None else changed.add_(number)


@operator
def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round x [R, C] of any float dtype. Return (values on the grid [R, C] in x's dtype, scale fp32
    [R, 1]). x is left as it is.
    """
    # fp32 [R, C]: rounding needs four more bits than bf16 has.
    values = x.to(torch.float32, copy=True)
    scale = power_of_two_scale(row_amax(values))
    return round_to_grid_(values, scale).to(x.dtype), scale


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight [R, C] to (int8 [R, C], scale fp32 [R, 1]), the largest of a row 127 or
    -127.
    """
    values = weight.float()
    # A row of zeros gets a scale that divides.
    scale = divide(row_amax(values), 127).clamp_min_(1e-30)
    return (values / scale).round_().to(torch.int8), scale


def codes_of(values: Tensor, scale: Tensor) -> Tensor:
    """Return the e4m3 codes (float8_e4m3fn) of values that lie on the grid of `scale`; exact."""
    return (values.float() / scale).to(torch.float8_e4m3fn)


def dequantize(qdata: Tensor, scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return qdata float8_e4m3fn [R, C] times scale fp32 [R, 1], [R, C] in `dtype`; exact in bf16
    and fp32.
    """
    return qdata.to(dtype).mul_(scale.to(dtype))


@operator
def quantize_codes(x: Tensor, column_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round x [R, C] to (qdata float8_e4m3fn [R, C], scale fp32 [R, 1]): the same rounding as
    `quantize_rows`, in the form a GEMM on codes takes.

    With `column_scale` (fp32 [C]) x * column_scale is quantized, rounded to x's dtype in between:
    that is grad_output times the scales of the weight's rows, which lie on the contraction axis of
    grad_input (method-products.md).
    """
    if column_scale is not None:
        x = (x * column_scale).to(x.dtype)
    values, scale = quantize_rows(x)
    return codes_of(values, scale), scale


@quantize_codes.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    yield SampleInput((draw.normal(9, 208),), codes_first)
    yield SampleInput((draw.normal(9, 208), draw.scales(208)), codes_first)


@operator
def round_rows(qdata: Tensor, scale: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Quantize x fp32 [R, C] by row: qdata float8_e4m3fn [R, C], scale fp32 [R, 1] and `values`
    bf16 [R, C], which holds the product of both exactly, are overwritten. Return `values`.
    """
    new, new_scale = quantize_codes.oracle(x)
    qdata.copy_(new)
    scale.copy_(new_scale)
    return values.copy_(dequantize(new, new_scale, values.dtype))


@round_rows.tried_on
def _round_samples(draw: Draw) -> Iterator[SampleInput]:
    rows = draw.codes(9, 208), draw.scales(9, 1), draw.normal(9, 208)
    yield SampleInput((*rows, draw.normal(9, 208, dtype=torch.float32)), rounded_in_place)


@jit
def load_scaled(x, column_scale, columns, num_columns, HAS_SCALE: tl.constexpr):
    """Load one block of x, times its columns' scales and rounded as the oracle does: fp32, zero
    beyond the row.
    """
    inside = columns < num_columns
    value = tl.load(x + columns, mask=inside, other=0.0)
    if HAS_SCALE:
        value = round_to(
            value.to(tl.float32) * tl.load(column_scale + columns, mask=inside, other=0.0),
            value.dtype,
        )
    return value.to(tl.float32)


@jit
def quantize_kernel(
    x,
    column_scale,
    qdata,
    scale,
    values,
    stride,
    HAS_SCALE: tl.constexpr,
    TO_VALUES: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Quantize one row a program: the largest magnitude, then the codes, and with `TO_VALUES` what
    they stand for. The first block stays in registers; only what follows is read again.
    """
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    qdata += row * NUM_COLUMNS
    values += row * NUM_COLUMNS
    columns = tl.arange(0, BLOCK)
    # Rows of up to `MAX_BLOCK` columns are read once.
    first = load_scaled(x, column_scale, columns, NUM_COLUMNS, HAS_SCALE)
    largest = tl.abs(first)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        largest = tl.maximum(
            largest, tl.abs(load_scaled(x, column_scale, start + columns, NUM_COLUMNS, HAS_SCALE))
        )
    exponent = power_of_two_exponent(tl.max(largest))
    tl.store(scale + row, power_of_two(exponent))
    _store_block(first, qdata, values, exponent, columns, NUM_COLUMNS, TO_VALUES)
    for start in range(BLOCK, NUM_COLUMNS, BLOCK):
        value = load_scaled(x, column_scale, start + columns, NUM_COLUMNS, HAS_SCALE)
        _store_block(value, qdata, values, exponent, start + columns, NUM_COLUMNS, TO_VALUES)


@jit
def _store_block(
    value, qdata, values, exponent, columns, NUM_COLUMNS: tl.constexpr, TO_VALUES: tl.constexpr
):
    """Store one block of a row's codes, and with `TO_VALUES` their products with 2^exponent."""
    inside = columns < NUM_COLUMNS
    # The product with 2^-exponent is exact, so a code is rounded once, in the cast.
    codes = to_e4m3(value * power_of_two(-exponent))
    tl.store(qdata + columns, codes, mask=inside)
    if TO_VALUES:
        exact = codes.to(tl.float32) * power_of_two(exponent)
        tl.store(values + columns, round_to(exact, tl.bfloat16), mask=inside)


@jit
def store_codes(values, qdata, scale, row, columns, NUM_COLUMNS: tl.constexpr):
    """Quantize one row that is held whole, fp32 [BLOCK] and zero beyond the row, and store its
    codes and scale.
    """
    exponent = power_of_two_exponent(tl.max(tl.abs(values)))
    tl.store(scale + row, power_of_two(exponent))
    # 2^-exponent is exact, so the product is rounded once, in the cast.
    codes = to_e4m3(values * power_of_two(-exponent))
    tl.store(qdata + row * NUM_COLUMNS + columns, codes, mask=columns < NUM_COLUMNS)


def quantize_codes_triton(x: Tensor, column_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Launch the kernel, one program a row; rows of x may have any stride."""
    x = rows_of(x)
    qdata = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.shape[0], 1, device=x.device)
    _launch(x, column_scale, qdata, scale, None)
    return qdata, scale


def round_rows_triton(qdata: Tensor, scale: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Launch the kernel, one program a row; all but x are contiguous."""
    _launch(rows_of(x), None, qdata, scale, values)
    return values


def _launch(
    x: Tensor, column_scale: Tensor | None, qdata: Tensor, scale: Tensor, values: Tensor | None
) -> None:
    block = block_of(x.shape[1])
    # A kernel takes no None: pointers that are never read or written are any tensor.
    quantize_kernel[(x.shape[0],)](
        x,
        x if column_scale is None else column_scale,
        qdata,
        scale,
        qdata if values is None else values,
        x.stride(0),
        HAS_SCALE=column_scale is not None,
        TO_VALUES=values is not None,
        NUM_COLUMNS=x.shape[1],
        BLOCK=block,
        num_warps=warps_of(block),
    )


quantize_codes.kernels["cuda"] = quantize_codes_triton
round_rows.kernels["cuda"] = round_rows_triton

_SIGNATURE = {
    "x": "*bf16",
    "column_scale": "*fp32",
    "qdata": "*fp8e4nv",
    "scale": "*fp32",
    "values": "*fp8e4nv",
    "stride": "i32",
}
_SIGNATURE |= dict.fromkeys(("HAS_SCALE", "TO_VALUES", "NUM_COLUMNS", "BLOCK"), "constexpr")


def _build(types: dict[str, str], has_scale: bool, to_values: bool, num_columns: int) -> Build:
    block = block_of(num_columns)
    constants: dict[str, object] = {"HAS_SCALE": has_scale, "TO_VALUES": to_values}
    constants |= {"NUM_COLUMNS": num_columns, "BLOCK": block}
    return Build(
        quantize_kernel,
        _SIGNATURE | types,
        constants,
        ptx=(CVT_E4M3,),
        num_warps=warps_of(block),
    )


BUILDS = [
    _build({}, has_scale=False, to_values=False, num_columns=4096),
    _build({}, has_scale=True, to_values=False, num_columns=28672),
    _build({"x": "*fp32", "values": "*bf16"}, has_scale=False, to_values=True, num_columns=28672),
]
