"""FP8 tensors with one scale each, and their products.

A tensor is `qdata * scale`: qdata in e4m3 (torch.float8_e4m3fn, 3 mantissa bits, at most 448) or
e5m2 (torch.float8_e5m2, 2 mantissa bits, at most 57344). The scale that comes from the tensor's own
largest magnitude is torchao's "tensorwise dynamic" one, bit for bit: max / amax in fp64, rounded to
fp32, multiplied in fp32 and cast to nearest with saturation.

A scale from elsewhere is 1 / factor with a factor that is a power of two, so that multiplying by
either is exact; values beyond the format's range then become its largest. Such tensors are cast to
nearest, or to e5m2 stochastically: e5m2 is the upper byte of fp16, so a random byte is added below
it and cut off.

A product is that of the codes, exact in the working dtype, times both scales. On a GPU with FP8
GEMMs it is `torch._scaled_mm`, where sizes are multiples of 16 and not both operands are e5m2; all
else multiplies the same codes in the working dtype. What is given up: for such sizes a GPU gains
nothing by FP8, and no warning says so.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from falqon_core.ops.matmul import matmul
from falqon_core.ops.scaled_mm import ALIGNMENT, has_fp8_gemm

E4M3 = torch.float8_e4m3fn
E5M2 = torch.float8_e5m2
_LEAST_AMAX = 1e-12  # The bound is torchao's.


class Float8(NamedTuple):
    """An FP8 tensor: qdata [R, C] in e4m3 or e5m2, scale fp32 []; its value is qdata * scale."""

    qdata: Tensor
    scale: Tensor

    def t(self) -> "Float8":
        """Return the transposed tensor, a view."""
        return Float8(self.qdata.t(), self.scale)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return qdata * scale, rounded to `dtype`."""
        return self.qdata.to(dtype).mul_(self.scale)


def quantize_tensor(x: Tensor, dtype: torch.dtype) -> Float8:
    """Round x of any float dtype and shape to `dtype`, its largest magnitude to the format's."""
    # fp64 []: torchao divides in fp64, and the bits are to be the same.
    amax = x.abs().amax().double().clamp_(min=_LEAST_AMAX)
    factor = (torch.finfo(dtype).max / amax).float()
    return Float8(cast_saturated(x.float() * factor, dtype), factor.reciprocal())


def quantize_by(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Float8:
    """Round x * factor to nearest; factor fp32 [], a power of two."""
    return Float8(cast_saturated(x * factor, dtype), factor.reciprocal())


def quantize_stochastically(x: Tensor, factor: Tensor, random_bytes: Tensor) -> Float8:
    """Round x * factor to e5m2, to one of its two neighbours with the probability of its distance
    from the other; a value on the grid stays. factor fp32 [], a power of two; random_bytes int16,
    0 to 255, of x's shape. The probability is exact to 1/256, and to 1/512 more below the smallest
    normal.
    """
    limit = torch.finfo(E5M2).max
    # fp16 has e5m2's exponent and eight more mantissa bits.
    bits = (x * factor).clamp_(-limit, limit).half().view(torch.int16)
    # int16: the random byte is added below the kept one, whose carry rounds up.
    codes = (bits + random_bytes) >> 8
    return Float8(codes.to(torch.int8).view(E5M2), factor.reciprocal())


def power_of_two_factor(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 2^floor(log2(max / amax)), the largest power of two by which amax stays in the range
    of `dtype`; 1 for 0. amax fp32 of any shape, not negative.
    """
    _, exponent = torch.frexp(torch.finfo(dtype).max / amax.clamp(min=1e-30))
    factor = torch.ldexp(torch.ones_like(amax), exponent - 1)
    return torch.where(amax > 0, factor, 1.0)


def cast_saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round x to nearest; values beyond the format's range become its largest. x is overwritten."""
    limit = torch.finfo(dtype).max
    return x.clamp_(-limit, limit).to(dtype)


def multiply(a: Float8, b: Float8, dtype: torch.dtype, fast_accumulation: bool = False) -> Tensor:
    """Return a b^T [M, N] in `dtype`, rounded once or twice; a [M, K], b [N, K]. Fast accumulation
    keeps about 14 bits on H100 and changes nothing elsewhere.
    """
    if _has_gemm(a.qdata, b.qdata, dtype):
        return multiply_codes(a, b, fast_accumulation)
    # Codes are exact in bf16; the product is rounded once there and once by the scales.
    product = matmul(a.qdata.to(dtype), b.qdata.to(dtype).t())
    return product.mul_(a.scale * b.scale)


def multiply_codes(a: Float8, b: Float8, fast_accumulation: bool) -> Tensor:
    """Multiply by the device's FP8 GEMM, to bf16: K and N are multiples of 16."""
    return torch._scaled_mm(
        a.qdata.contiguous(),
        b.qdata.contiguous().t(),
        scale_a=a.scale,
        scale_b=b.scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast_accumulation,
    )


def _has_gemm(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    return (
        a.is_cuda
        and dtype == torch.bfloat16
        and not a.dtype == b.dtype == E5M2
        and b.shape[0] % ALIGNMENT == 0
        and b.shape[1] % ALIGNMENT == 0
        and has_fp8_gemm(a.device)
    )
