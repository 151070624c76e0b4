"""The FP8 GEMM: e4m3 codes times e4m3 codes, every row of both operands with its own scale, result
in bf16.

`out[m, n] = a_scale[m] * b_scale[n] * sum_k a[m, k] * b[n, k]`. Both operands are contiguous along
the contraction axis K, the only layout that FP8 tensor cores read; a weight that is contracted over
its inputs (output) is therefore transposed for grad_input (ops/transpose.py). Fast accumulation
keeps about 14 bits on H100 (method-products.md): good enough for activations, off for gradients.

On a GPU there are four ways; of those that reproduce known products *exactly* the fastest is taken:
  rowwise     `torch._scaled_mm` with both scale vectors; known to fail or to be wrong on some GPUs
              (sm_89, sm_120).
  unit_scale  the same GEMM with scale 1 and the multiplications after it. Scales are powers of two,
              so not a bit changes.
  own         the kernel of ops/half_gemm.py with FP32 sums.
  the oracle  dequantizes to bf16, for GPUs without FP8; `has_fp8_gemm` tells callers to spare
              themselves quantizing activations there.
GPU libraries choose their kernel by the sizes, so the question is asked once per device, power of
two of M, N, K and accumulation (gemm_choice.py); later calls look the answer up. What a GPU refuses
(K or N no multiple of 16) is refused on the CPU too, so that tests see it.

What is given up: the scales are not fused into the unit_scale GEMM; two of the ways add in another
order, so a card that forgot its choice may continue with other bits.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.gemm_choice import Gemm, GemmShape, exact_gemms, fastest_gemm
from falqon_core.ops.half_gemm import gemm_codes_triton
from falqon_core.ops.quantize import dequantize
from falqon_core.ops.samples import Draw, SampleInput, result_alone

ALIGNMENT = 16  # K and N are multiples of it, in elements.
MAX_PROBED_ROWS = 2048


@operator
def scaled_mm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool = False
) -> Tensor:
    """Return a . b^T, scaled, bf16 [M, N]; a, b float8_e4m3fn [M, K], [N, K], contiguous; a_scale,
    b_scale fp32 [M, 1], [N, 1], powers of two.

    Raises `ValueError` where no FP8 GPU takes the operands.
    """
    check_operands(a, b)
    return dequantize(a, a_scale) @ dequantize(b, b_scale).t()


@scaled_mm.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    operands = draw.codes(9, 96), draw.scales(9, 1), draw.codes(48, 96), draw.scales(48, 1)
    for fast_accumulation in (False, True):
        yield SampleInput((*operands, fast_accumulation), result_alone)


def check_operands(a: Tensor, b: Tensor) -> None:
    """Refuse operands that a GPU refuses, on every device. Raises `ValueError` where a dtype, a
    layout or a size does not fit.
    """
    if a.dtype != torch.float8_e4m3fn or b.dtype != torch.float8_e4m3fn:
        raise ValueError(f"scaled_mm takes e4m3 codes, not {a.dtype} and {b.dtype}")
    if not (a.is_contiguous() and b.is_contiguous()):
        raise ValueError("scaled_mm takes operands that are contiguous along K")
    if b.shape[0] % ALIGNMENT or b.shape[1] % ALIGNMENT:
        raise ValueError(
            f"scaled_mm takes N and K that are multiples of {ALIGNMENT}, not {b.shape[0]} and "
            f"{b.shape[1]}"
        )


def rowwise(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool
) -> Tensor:
    """Multiply with both scale vectors inside the GEMM."""
    return torch._scaled_mm(
        a,
        b.t(),
        scale_a=a_scale,
        scale_b=b_scale.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=fast_accumulation,
    )


def unit_scale(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool
) -> Tensor:
    """Multiply with scale 1 and apply both scales to the product. A sum of K products of codes is
    below 2^18 K, far inside bf16's range, and powers of two then move its exponent only.
    """
    unit = torch.ones((), device=a.device)
    out = torch._scaled_mm(
        a,
        b.t(),
        scale_a=unit,
        scale_b=unit,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast_accumulation,
    )
    return out.mul_(a_scale).mul_(b_scale.t())


def own(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool) -> Tensor:
    """Multiply with sums in FP32, without fast accumulation; by the kernel alone, for the oracle
    behind it would make any device look as if it multiplied codes.
    """
    return gemm_codes_triton(a, b, a_scale, b_scale.t())


GEMMS: tuple[Gemm, ...] = (rowwise, unit_scale, own)


@cache
def has_fp8_gemm(device: torch.device) -> bool:
    """Check that `device` multiplies codes; False means that `scaled_mm` would dequantize both
    operands to bf16.
    """
    return scaled_mm.fault(device) is None and all(
        exact_gemms(GEMMS, MAX_PROBED_ROWS, device, fast) for fast in (True, False)
    )


def scaled_mm_cuda(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool = False
) -> Tensor:
    """Multiply by the GEMM that is fastest at these sizes. Raises `ValueError` where a GPU refuses
    the operands.
    """
    check_operands(a, b)
    gemm = gemm_for(a.device, GemmShape(a.shape[0], b.shape[0], b.shape[1], fast_accumulation))
    return gemm(a, a_scale, b, b_scale, fast_accumulation)


scaled_mm.kernels["cuda"] = scaled_mm_cuda


def gemm_for(device: torch.device, shape: GemmShape) -> Gemm:
    """Return the GEMM for operands of `shape` on `device`, by the next power of two of its rows."""
    num_rows = 1 << (min(shape.num_rows, MAX_PROBED_ROWS) - 1).bit_length()
    return _gemm_for(device, shape._replace(num_rows=num_rows))


def choose_gemms(
    device: torch.device,
    num_outputs: int,
    num_inputs: int,
    fast_accumulation: bool,
    most_rows: int,
) -> None:
    """Choose the GEMMs for `most_rows` rows and for fewer, now and not beside the activations of
    the first step, where their operands might not fit.
    """
    num_rows = ALIGNMENT
    while num_rows < 2 * min(most_rows, MAX_PROBED_ROWS):
        gemm_for(device, GemmShape(num_rows, num_outputs, num_inputs, fast_accumulation))
        num_rows *= 2


@cache
def _gemm_for(device: torch.device, shape: GemmShape) -> Gemm:
    return fastest_gemm(GEMMS, shape, device) or scaled_mm.oracle
