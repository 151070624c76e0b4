"""FP6 weights (FP6-LLM, arXiv 2401.14112): a sign, and two or three bits of mantissa.

Row i of a weight [O, I] is `code * scale[i]` with scale[i] = max |W_i| / the largest value of the
format, so that nothing saturates; rounding is to nearest, ties to even. Neither format has an
infinity or a NaN. All their values are values of e4m3 as well.

Four codes lie in three bytes, the first in the lowest bits; a row ends in codes of zero where 4
does not divide I. What is given up: the split and interleaved layout that FP6-LLM's kernel reads,
which serves nothing but that kernel.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from falqon_core.contract.recipe_options import WeightFormat
from falqon_core.ops.quantize import divide, row_amax, row_blocks

_EXPONENT_BITS = 0x7F800000
_FP32_MANTISSA_BITS = 23
_SIGN = 32  # The bit of a code that is its sign.
_CODES_PER_GROUP = 4  # Codes that share three bytes.


class Fp6Format(NamedTuple):
    """A format of 6 bits; `min_exponent` is that of the smallest normal value and of all subnormal
    ones.
    """

    mantissa_bits: int
    min_exponent: int
    max_value: float

    @property
    def values(self) -> Tensor:
        """Return the values of the 64 codes, fp32 [64]."""
        code = torch.arange(64)
        exponent = (code % _SIGN) >> self.mantissa_bits
        mantissa = code % (1 << self.mantissa_bits)
        # Field 0 holds subnormals: no implicit bit, and the exponent of field 1.
        implicit = (exponent > 0) * (1 << self.mantissa_bits)
        magnitude = torch.ldexp(
            (implicit + mantissa).float(),
            exponent.clamp_min(1) - 1 + self.min_exponent - self.mantissa_bits,
        )
        return torch.where(code < _SIGN, magnitude, -magnitude)


FORMATS: dict[WeightFormat, Fp6Format] = {
    "e3m2": Fp6Format(mantissa_bits=2, min_exponent=-2, max_value=28.0),
    "e2m3": Fp6Format(mantissa_bits=3, min_exponent=0, max_value=7.5),
}


def quantize_fp6(weight: Tensor, format: Fp6Format) -> tuple[Tensor, Tensor]:
    """Round a weight [O, I] of any float dtype to (codes uint8 [O, 3 * ceil(I / 4)], scale fp32 [O,
    1]).
    """
    parts = []
    for rows in row_blocks(weight.shape):
        values = weight[rows].float()
        scale = divide(row_amax(values), format.max_value).clamp_min_(1e-30)
        parts.append((_pack(_codes_of(values / scale, format)), scale))
    packed, scales = zip(*parts, strict=True)
    return torch.cat(packed), torch.cat(scales)


def dequantize_fp6(
    packed: Tensor, scale: Tensor, table: Tensor, num_columns: int, dtype: torch.dtype
) -> Tensor:
    """Return the weight [O, num_columns] in `dtype`, rounded to it once; `table` is `values` of the
    format, on the device of the codes.
    """
    weight = torch.empty(len(packed), num_columns, dtype=dtype, device=packed.device)
    for rows in row_blocks(weight.shape):
        # uint8 [rows, I], without the padding of the last group.
        codes = _unpack(packed[rows])[:, :num_columns]
        # A flat look-up takes a third of the time of indexing on a CPU.
        values = table.index_select(0, codes.reshape(-1).int()).view(codes.shape)
        weight[rows] = values.mul_(scale[rows])
    return weight


def _codes_of(values: Tensor, format: Fp6Format) -> Tensor:
    """Return the codes, uint8, of the format's values that are nearest to fp32 values.

    Adding and subtracting 1.5 * 2^(23 - m) times the binade of a value leaves the nearest multiple
    of its last mantissa bit, ties to even, as in `ops.quantize`.
    """
    magnitude = values.abs().clamp_max_(format.max_value)
    magic = 1.5 * 2.0 ** (_FP32_MANTISSA_BITS - format.mantissa_bits)
    binade = _binade(magnitude, format)
    rounded = magnitude.add_(binade, alpha=magic).sub_(binade, alpha=magic)
    # Rounding up may have reached the next binade.
    binade = _binade(rounded, format)
    smallest = 127 + format.min_exponent
    exponent = (binade.view(torch.int32) >> _FP32_MANTISSA_BITS).sub_(smallest)
    # Normal values count their implicit bit, which makes their exponent field one more.
    significand = rounded.div_(binade).mul_(1 << format.mantissa_bits).to(torch.int32)
    codes = (exponent << format.mantissa_bits).add_(significand).to(torch.uint8)
    return codes.add_((values < 0).to(torch.uint8), alpha=_SIGN)


def _binade(magnitude: Tensor, format: Fp6Format) -> Tensor:
    """Return the power of two at or below each value; at least that of the smallest normal."""
    bits = magnitude.view(torch.int32) & _EXPONENT_BITS
    return bits.view(torch.float32).clamp_min_(2.0**format.min_exponent)


def _pack(codes: Tensor) -> Tensor:
    num_rows, num_columns = codes.shape
    padding = -num_columns % _CODES_PER_GROUP
    first, second, third, fourth = (
        pad(codes, (0, padding)).view(num_rows, -1, _CODES_PER_GROUP).unbind(-1)
    )
    # Bits that do not fit into eight are dropped by the shift.
    packed = (first | second << 6, second >> 2 | third << 4, third >> 4 | fourth << 2)
    return torch.stack(packed, -1).flatten(1)


def _unpack(packed: Tensor) -> Tensor:
    first, second, third = packed.view(len(packed), -1, 3).unbind(-1)
    codes = (
        first & 63,
        first >> 6 | (second & 15) << 2,
        second >> 4 | (third & 3) << 4,
        third >> 2,
    )
    return torch.stack(codes, -1).flatten(1)
