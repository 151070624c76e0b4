"""The entry of Triton: the decorator for kernels, their shared parts, and the record of a build
that must compile.

A kernel stands in the file of its operator, between its oracle and its launcher. On a GPU it is
compiled at first use. Without a GPU it is tested two ways: run in Triton's interpreter on CPU
tensors (environment TRITON_INTERPRET=1) against the oracle, and compiled to machine code for every
architecture of `ops/compile.py`, for which no GPU is needed. Where the `triton` package does not
exist (outside Linux) the decorator leaves functions as they are, uncalled.

A kernel over rows takes their length as a constexpr, NUM_COLUMNS: a model has few widths, and where
a row fits into one block the loops over further blocks vanish, which halves the registers.

What is given up: in the interpreter casts to e4m3 wrap instead of saturating, round ties away from
zero and cut off subnormals, and casts to bf16 truncate, so `to_e4m3` and `round_to` round by
arithmetic first there, and `dot_bf16` multiplies in fp32; on a GPU the instructions do all of it.
Triton before 3.9 casts to e4m3 on sm_89 by way of fp16, cutting off what fp16 has no bits for
(found by the PTX that 3.7 and 3.8 write), so with those `to_e4m3` rounds by arithmetic first as
well.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor

# Triton 3.9 warns unless told; every product that must be exact is one by a power of two, so fusing
# changes nothing there.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

try:
    import triton
    import triton.language as tl
except ImportError:  # pragma: no cover
    triton = None
    tl = SimpleNamespace(constexpr=lambda value: value)

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INTERPRETED = tl.constexpr(_INTERPRETED)
# Columns that one program holds at a time, 16 in each of the 1024 threads that it may have.
MAX_BLOCK = 16384
# Linears of a group that a kernel tells apart: q, k and v.
MAX_LINEARS = 3
CASTS_TWICE = triton is not None and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
ROUNDS_FIRST = tl.constexpr(CASTS_TWICE or _INTERPRETED)
# The PTX of every kernel that writes codes holds it.
CVT_E4M3 = "cvt.rn.satfinite.e4m3x2" if CASTS_TWICE else "cvt.rn.satfinite.e4m3x2.f32"


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a kernel at its first launch: `@jit`, or `@jit(do_not_specialize=[...])` for
    arguments that change at every call.
    """
    if function is None:
        return lambda function: jit(function, **options)
    if triton is None:
        return function
    return triton.jit(function, **options)


def block_of(num_columns: int) -> int:
    """Return the columns of one block: the next power of two, or `MAX_BLOCK` / 2 for rows beyond
    `MAX_BLOCK`, which hold two blocks at a time.
    """
    if num_columns <= MAX_BLOCK:
        return 1 << (num_columns - 1).bit_length()
    return MAX_BLOCK // 2


def warps_of(block: int) -> int:
    """Return the warps of a program that holds `block` columns: 16 columns for each thread, so that
    several tensors stay in its registers.
    """
    return max(4, block // 512)


def rows_of(x: Tensor) -> Tensor:
    """Return x [..., C] as rows [R, C] at any stride, each contiguous; a copy only where no view
    is.
    """
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) == 1:
        return rows
    return rows.contiguous()


@dataclass(frozen=True)
class Build:
    """One kernel with the types of its arguments, as `ops/compile.py` is to compile it.

    `signature` gives each argument's Triton type ("*bf16", "*fp8e4nv", "i32", "fp32", or
    "constexpr"), `constants` the values of the constexprs, `ptx` what the PTX must hold on every
    architecture, `ptx_of` what it must hold on one (by compute capability, e.g. 90).
    """

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    ptx: tuple[str, ...] = ()
    ptx_of: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3


@jit
def load_row(x, row, stride, columns, NUM_COLUMNS: tl.constexpr):
    """Load `columns` of one row of x in x's dtype; zero beyond the row."""
    return tl.load(x + row * stride + columns, mask=columns < NUM_COLUMNS, other=0.0)


@jit
def power_of_two_exponent(amax):
    """Return the exponent of `quantize.power_of_two_scale`, int32; amax fp32, non-negative."""
    bits = amax.to(tl.int32, bitcast=True)
    # With amax = 1.m * 2^e and 448 = 1.75 * 2^8 the scale is 2^(e - 8), one more where m > 0.75.
    exponent = (bits >> 23) - 127 - 8 + ((bits & 0x7FFFFF) > 0x600000).to(tl.int32)
    return tl.where(amax == 0.0, -9, tl.maximum(exponent, -100))


@jit
def power_of_two(exponent):
    """Return 2^exponent as fp32, exact; -126 <= exponent <= 127."""
    # The exponent field alone: no multiplication, no rounding.
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@jit
def inverse_power_of_two(value):
    """Return 1 / value, exact; value fp32, a power of two from 2^-126 to 2^126."""
    return (0x7F000000 - value.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@jit
def dot_bf16(left, right):
    """Return bf16 [M, K] . bf16 [K, N] in fp32. The interpreter would multiply the bits of bf16 as
    integers, so it multiplies in fp32.
    """
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32))
    return tl.dot(left, right)


@jit
def to_e4m3(value):
    """Cast fp32, |value| <= 448, to e4m3: nearest, ties to even."""
    if ROUNDS_FIRST:
        binade = (value.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        # 0.015625 = 2^-6, e4m3's smallest normal; 1572864 = 1.5 * 2^20 as in `quantize`.
        magic = tl.maximum(binade, 0.015625) * 1572864.0
        value = (value + magic) - magic
    return value.to(tl.float8e4nv)


@jit
def round_to(value, DTYPE: tl.constexpr):
    """Cast fp32 to DTYPE (fp32 or bf16): nearest, ties to even."""
    if INTERPRETED and DTYPE.is_bf16():
        bits = value.to(tl.int32, bitcast=True)
        # Adding half of the last kept bit, less one where that bit is even, rounds ties to even.
        value = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return value.to(DTYPE)
