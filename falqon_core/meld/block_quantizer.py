"""Quantizers of weights in blocks: four or eight bits a weight, and a scale for each block.

A weight [R, C] becomes `number * scale`, with numbers of a small grid and one scale for 16 or 32
neighbours in a row:

  nvfp4   e2m1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives), blocks of 16, the scale an e4m3
          times one fp32 of the tensor, the `unit`
  mxfp4   e2m1, blocks of 32, the scale a power of two (e8m0)
  q4_0    integers from -8 to 7, blocks of 32, the scale an fp16 of either sign (llama.cpp)
  q8_0    integers from -127 to 127, blocks of 32, the scale an fp16 (llama.cpp)

A bf16 tensor holds every dequantized value exactly, so that training multiplies the very values
that are served: numbers have two, three or seven significant bits, and scales here as many as leave
eight to the product. The unit of nvfp4 is a power of two, scales of q4_0 keep five bits of fp16's
eleven, and scales of q8_0 are powers of two. What is given up: q8_0 rounds up to twice as far as
with the scale that fits the block's largest weight, which is still less than FP8 does.

A scale is the one of few candidates, multiples of the block's largest weight, that leaves the least
squared error; unlike the largest weight's own scale it may saturate. Rounding is to nearest, ties
to even. What is given up: a scale is at least 2^-20 (of nvfp4 2^-9 units), so blocks whose largest
weight is below 1e-5 or so are rounded further; rows that hold NaN or infinity are undefined.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from falqon_core.contract.errors import ConfigError
from falqon_core.importers.mxfp4 import NUMBERS
from falqon_core.ops.quantize import E4M3_MAX, divide, row_blocks

BLOCK_ELEMENTS = 2**18  # As the refresh of FP8 rows: fp32 intermediates stay in the cache.
_EXPONENT_BITS = 0x7F800000
_MAGIC = 1.5 * 2.0**23  # The last mantissa bit of fp32 is 1 there.
_MIN_E4M3 = 2.0**-9
_MIN_FP16 = 2.0**-20  # With five significant bits.
_LEAST_EXPONENT = -126
_USUAL_LARGEST = 1 / 16  # Of a block, where weights deviate by 0.02 or so.


def round_e2m1_(units: Tensor) -> Tensor:
    """Round fp32 numbers to those of e2m1, in place; what is beyond 6 saturates."""
    units.clamp_(-NUMBERS[-1], NUMBERS[-1])
    # The power of two at or below the magnitude; numbers below 1 have the spacing of those above.
    binade = (units.view(torch.int32) & _EXPONENT_BITS).view(torch.float32).clamp_min_(1.0)
    # The sum has its last bit at half of the binade, so the addition itself rounds.
    return units.add_(binade, alpha=_MAGIC / 2).sub_(binade, alpha=_MAGIC / 2)


def round_int4_(units: Tensor) -> Tensor:
    """Round fp32 numbers to integers from -8 to 7, in place."""
    return units.clamp_(-8, 7).add_(_MAGIC).sub_(_MAGIC)


def round_int8_(units: Tensor) -> Tensor:
    """Round fp32 numbers to integers from -127 to 127, in place."""
    return units.clamp_(-127, 127).add_(_MAGIC).sub_(_MAGIC)


def codes_of_e2m1(units: Tensor) -> Tensor:
    """Return the codes of numbers of e2m1, uint8: the magnitude's index, and 8 for the sign."""
    numbers = torch.tensor(NUMBERS, device=units.device)
    codes = torch.searchsorted(numbers, units.abs().contiguous())
    return (codes + 8 * (units < 0)).to(torch.uint8)


def e2m1_of_codes(codes: Tensor) -> Tensor:
    """Return the numbers of codes of e2m1, fp32."""
    numbers = torch.tensor((*NUMBERS, *(-number for number in NUMBERS)), device=codes.device)
    return numbers[codes.int()]


def codes_of_int4(units: Tensor) -> Tensor:
    """Return llama.cpp's codes of integers from -8 to 7, uint8 from 0 to 15."""
    return (units + 8).to(torch.uint8)


def int4_of_codes(codes: Tensor) -> Tensor:
    """Return the integers of llama.cpp's codes, fp32."""
    return codes.float() - 8


def codes_of_int8(units: Tensor) -> Tensor:
    """Return the bytes of integers from -127 to 127 in two's complement, uint8."""
    return units.to(torch.int8).view(torch.uint8)


def int8_of_codes(codes: Tensor) -> Tensor:
    """Return the integers of their bytes, fp32."""
    return codes.view(torch.int8).float()


def e4m3_scale(scale: Tensor) -> Tensor:
    """Return positive scales rounded to e4m3 above zero, fp32."""
    rounded = scale.clamp(_MIN_E4M3, E4M3_MAX).to(torch.float8_e4m3fn)
    return rounded.float()


def power_of_two_above(scale: Tensor) -> Tensor:
    """Return the smallest powers of two that are not below positive scales, fp32; 2^-20 of zero."""
    fraction, exponent = torch.frexp(scale.clamp_min(_MIN_FP16))
    exponent = exponent - (fraction == 0.5).to(exponent.dtype)
    return torch.ldexp(torch.ones_like(scale), exponent)


def fp16_scale(scale: Tensor) -> Tensor:
    """Return scales of either sign rounded to five significant bits, fp32; 2^-20 of zero."""
    magnitude = scale.abs().clamp(_MIN_FP16, 2.0**15)
    fraction, exponent = torch.frexp(magnitude)
    rounded = torch.ldexp((fraction * 32).round() / 32, exponent)
    return torch.where(scale < 0, -rounded, rounded)


@dataclass(frozen=True)
class BlockQuantizer:
    """One form of quantized weights: its grid, its scales and the candidates for these.

    `divisors`: a candidate is the block's largest weight over one of them. With `is_signed` that
    weight keeps its sign, since the grid reaches further on one side. `unit`: the power of two that
    all scales of a tensor share.
    """

    name: str
    block: int  # Weights of a row that share a scale.
    round_: Callable[[Tensor], Tensor]
    codes_of_numbers: Callable[[Tensor], Tensor]
    numbers_of_codes: Callable[[Tensor], Tensor]
    round_scale: Callable[[Tensor], Tensor]
    divisors: tuple[float, ...]
    is_signed: bool = False
    has_unit: bool = False
    unit: float = 1.0

    def fitted_to(self, weights: Sequence[Tensor]) -> "BlockQuantizer":
        """Return the quantizer with the unit of tensors `weights` [.., I] that share one.

        Raises `ConfigError` (param `model`) for infinity and NaN.
        """
        largest = 0.0
        for weight in weights:
            # Ten times as fast as abs().max() on a CPU, and no copy.
            ends = torch.aminmax(weight) if len(weight) else ()
            for end in (each.item() for each in ends):
                if not math.isfinite(end):
                    raise ConfigError(
                        f"model: a weight is {end}, and blocks of {self.name} hold finite ones",
                        "model",
                    )
                largest = max(largest, abs(end))
        if not self.has_unit or largest == 0:
            return self
        # The largest candidate is at most 448 units, and twice as many leave it above the half.
        exponent = math.ceil(math.log2(largest / min(self.divisors) / E4M3_MAX))
        # Files hold the inverse of the unit, which fp32 has up to here.
        return replace(self, unit=2.0 ** max(exponent, _LEAST_EXPONENT))

    @torch.no_grad()
    def choose_scales(self, values: Tensor) -> Tensor:
        """Return the scales of values [R, C], fp32 [R, C / block], by least squared error."""
        num_rows, num_columns = values.shape
        scales = values.new_empty(num_rows, num_columns // self.block, dtype=torch.float32)
        for at in row_blocks(values.shape, BLOCK_ELEMENTS):
            blocks = values[at].float().unflatten(1, (-1, self.block))
            scales[at] = self._least_error(blocks).squeeze(2)
        return self._fill_empty(scales)

    def _fill_empty(self, scales: Tensor) -> Tensor:
        """Give blocks of zeros, whose scales are zero, the median of the others' scales: what is
        trained into them needs room. A tensor of zeros gets what usual weights would.
        """
        is_empty = scales == 0
        if not is_empty.any():
            return scales
        usual = scales[~is_empty].abs()
        if not len(usual):
            largest = scales.new_tensor([_USUAL_LARGEST / abs(self.divisors[0])])
            usual = self._scale(largest)
        return torch.where(is_empty, usual.median(), scales)

    def _least_error(self, blocks: Tensor) -> Tensor:
        """Return fp32 [R, n, 1] of fp32 [R, n, block]; zero of a block of zeros."""
        above, below = blocks.amax(2, keepdim=True), blocks.amin(2, keepdim=True)
        largest = torch.maximum(above, -below)
        if self.is_signed:
            largest = torch.where(above >= -below, above, below)
        best = self._scale(divide(largest, self.divisors[0]))
        least = self._errors(blocks, best)
        for divisor in self.divisors[1:]:
            scale = self._scale(divide(largest, divisor))
            errors = self._errors(blocks, scale)
            is_less = errors < least
            best = torch.where(is_less, scale, best)
            least = torch.where(is_less, errors, least)
        return torch.where(largest == 0, 0.0, best)

    def _scale(self, scale: Tensor) -> Tensor:
        return self.round_scale(scale / self.unit) * self.unit

    def _errors(self, blocks: Tensor, scale: Tensor) -> Tensor:
        errors = self.round_(blocks / scale).mul_(scale).sub_(blocks)
        return errors.square_().sum(2, keepdim=True)

    @torch.no_grad()
    def round_values(self, values: Tensor, scales: Tensor) -> Tensor:
        """Return values [R, C] rounded by scales fp32 [R, C / block], fp32 [R, C]."""
        blocks = values.float().unflatten(1, (-1, self.block))
        scales = scales[:, :, None]
        return self.round_(blocks / scales).mul_(scales).flatten(1)

    def quantize(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return (values on the grid fp32 [R, C], scales fp32 [R, C / block]) of values [R, C]."""
        scales = self.choose_scales(values)
        return self.round_values(values, scales), scales

    def codes_of(self, values: Tensor, scales: Tensor) -> Tensor:
        """Return the codes, uint8 [R, C], of values that lie on the grid of `scales`; exact."""
        blocks = values.float().unflatten(1, (-1, self.block))
        return self.codes_of_numbers(self.round_(blocks / scales[:, :, None])).flatten(1)

    def dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Return fp32 [R, C] of codes uint8 [R, C] and scales fp32 [R, C / block]; exact."""
        numbers = self.numbers_of_codes(codes).unflatten(1, (-1, self.block))
        return numbers.mul_(scales[:, :, None]).flatten(1)


_E2M1 = (round_e2m1_, codes_of_e2m1, e2m1_of_codes)
_INT4 = (round_int4_, codes_of_int4, int4_of_codes)
_INT8 = (round_int8_, codes_of_int8, int8_of_codes)
QUANTIZERS = {
    quantizer.name: quantizer
    for quantizer in (
        BlockQuantizer(
            "nvfp4", 16, *_E2M1, e4m3_scale, (6, 4, 4.5, 5, 5.5, 6.5, 7, 8), has_unit=True
        ),
        # Without saturation, and half of that: most of a block is finer then.
        BlockQuantizer("mxfp4", 32, *_E2M1, power_of_two_above, (6, 12)),
        BlockQuantizer(
            "q4_0", 32, *_INT4, fp16_scale, (-8, -7, -7.5, -8.5, -9, 6.5, 7, 7.5), is_signed=True
        ),
        BlockQuantizer("q8_0", 32, *_INT8, power_of_two_above, (127,)),
    )
}
