"""The FP8 GEMM: e4m3 codes times e4m3 codes, every row of both operands with its own scale, result
in bf16.

`out[m, n] = a_scale[m] * b_scale[n] * sum_k a[m, k] * b[n, k]`. Both operands are contiguous along
the contraction axis K, the only layout that FP8 tensor cores read; a weight that is contracted over
its inputs (output) is therefore transposed for grad_input (ops/transpose.py). Fast accumulation
keeps about 14 bits on H100 (method.md section 4): good enough for activations, off for gradients.

On a GPU there are four ways, in this order, and the first that reproduces a known product *exactly*
is taken:
  rowwise     `torch._scaled_mm` with both scale vectors; known to fail or to be wrong on some GPUs
              (sm_89, sm_120).
  unit_scale  the same GEMM with scale 1 and the multiplications after it. Scales are powers of two,
              so not a bit changes.
  own         the kernel of ops/half_gemm.py with FP32 sums.
  the oracle  dequantizes to bf16, for GPUs without FP8; `has_fp8_gemm` tells callers to spare
              themselves quantizing activations there.
GPU libraries choose their kernel by the number of rows, so the question is asked once per device,
power of two of M and accumulation; later calls look the answer up. What a GPU refuses (K or N no
multiple of 16) is refused on the CPU too, so that tests see it.

What is given up: a fault that shows only at some N or K is not found; the scales are not fused into
the unit_scale GEMM.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.half_gemm import gemm_codes_triton
from falqon_core.ops.quantize import dequantize
from falqon_core.ops.samples import Draw, Sample, result_alone

ALIGNMENT = 16  # of K and N, in elements
MAX_PROBED_ROWS = 2048
PROBED_N, PROBED_K = 128, 256

Gemm = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
logger = logging.getLogger(__name__)


@operator
def scaled_mm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool = False
) -> Tensor:
    """a, b float8_e4m3fn [M, K], [N, K], contiguous; a_scale, b_scale fp32 [M, 1], [N, 1], powers
    of two -> bf16 [M, N].

    Raises `ValueError` for operands that no FP8 GPU takes.
    """
    check_operands(a, b)
    return dequantize(a, a_scale) @ dequantize(b, b_scale).t()


@scaled_mm.tried_on
def _samples(draw: Draw) -> Iterator[Sample]:
    operands = draw.codes(9, 96), draw.scales(9, 1), draw.codes(48, 96), draw.scales(48, 1)
    for fast_accumulation in (False, True):
        yield Sample((*operands, fast_accumulation), result_alone)


def check_operands(a: Tensor, b: Tensor) -> None:
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
    """A sum of K products of codes is below 2^18 K, far inside bf16's range, and powers of two then
    move its exponent only.
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
    """Multiply with sums in FP32, whatever is asked for; by the kernel alone, for the oracle behind
    it would make any device look as if it multiplied codes.
    """
    return gemm_codes_triton(a, b, a_scale, b_scale.t())


def first_exact(
    gemms: Sequence[Gemm], num_rows: int, device: torch.device, fast_accumulation: bool
) -> Gemm:
    """Return the first of `gemms` that gives the known product [num_rows, N] bit for bit on
    `device`; the oracle when none does.
    """
    a, a_scale, b, b_scale, expected = _known_product(num_rows, device)
    for gemm in gemms:
        try:
            if torch.equal(gemm(a, a_scale, b, b_scale, fast_accumulation), expected):
                return gemm
            fault = "its product is wrong"
        # torch's and Triton's have no common ancestor, and any of them means that this one is of no
        # use
        except Exception as error:
            fault = str(error).partition("\n")[0]
        logger.warning(
            "FP8 GEMM %s is not used on %s for %d rows: %s",
            getattr(gemm, "__name__", gemm),
            device,
            num_rows,
            fault,
        )
    return scaled_mm.oracle


def has_fp8_gemm(device: torch.device) -> bool:
    """Return whether `device` multiplies codes; False means that `scaled_mm` would dequantize both
    operands to bf16.
    """
    return scaled_mm.fault(device) is None and all(
        gemm_for(device, MAX_PROBED_ROWS, fast) is not scaled_mm.oracle for fast in (True, False)
    )


def scaled_mm_cuda(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast_accumulation: bool = False
) -> Tensor:
    check_operands(a, b)
    return gemm_for(a.device, a.shape[0], fast_accumulation)(
        a, a_scale, b, b_scale, fast_accumulation
    )


scaled_mm.kernels["cuda"] = scaled_mm_cuda


def gemm_for(device: torch.device, num_rows: int, fast_accumulation: bool) -> Gemm:
    """The GEMM that `scaled_mm` takes on `device` for `num_rows` rows of a."""
    return _gemm_for(
        device, 1 << (min(num_rows, MAX_PROBED_ROWS) - 1).bit_length(), fast_accumulation
    )


@cache
def _gemm_for(device: torch.device, num_rows: int, fast_accumulation: bool) -> Gemm:
    return first_exact((rowwise, unit_scale, own), num_rows, device, fast_accumulation)


def _known_product(
    num_rows: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """a, a_scale, b, b_scale and their product, computed on the CPU.

    Codes are -1, 0 and 1 and K is 256, so every partial sum is an integer that bf16 and the fast
    accumulator hold exactly: a GEMM is right to the last bit or wrong. Scales differ from row to
    row, so one that is swapped, shared or forgotten shows.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randint(-1, 2, (rows, PROBED_K), generator=generator).float()
        for rows in (num_rows, PROBED_N)
    )
    a_scale, b_scale = (
        torch.randint(-9, 4, (rows, 1), generator=generator).float().exp2()
        for rows in (num_rows, PROBED_N)
    )
    product = ((a * a_scale) @ (b * b_scale).t()).bfloat16()
    a = a.to(torch.float8_e4m3fn)
    b = b.to(torch.float8_e4m3fn)
    return a.to(device), a_scale.to(device), b.to(device), b_scale.to(device), product.to(device)
