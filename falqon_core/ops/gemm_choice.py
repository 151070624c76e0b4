"""The choice among several FP8 GEMMs at a shape: the fastest of those that are exact there, timed
once and stored on disk.

A candidate has to reproduce two known products bit for bit: a small one, computed on the CPU, and
one of the real N and K, computed on the device in bf16. Codes are -1, 0 and 1, and so few of a row
of `a` are not zero that every partial sum is an integer that bf16 and a fast accumulator hold: a
GEMM is right to the last bit or wrong. Scales differ from row to row, so one that is swapped,
shared or forgotten shows. The choice stands beside the verdicts on kernels (self_check.py), for the
same card, driver, torch, Triton and source.

What is given up: codes of all magnitudes are not tried, and one timing decides between candidates
that are as fast.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from falqon_core.contract.errors import is_allocation_failure
from falqon_core.files import write_whole
from falqon_core.ops.self_check import first_line, verdicts_path

Gemm = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
SMALL_N, SMALL_K = 128, 256
NONZERO_PER_ROW = 128  # Codes of a row of `a` that are not zero, about.
NUM_TIMINGS = 5
logger = logging.getLogger(__name__)


class GemmShape(NamedTuple):
    """a [num_rows, K] times b [N, K] transposed, and how it is added up."""

    num_rows: int
    num_outputs: int
    num_inputs: int
    fast_accumulation: bool


class KnownProduct(NamedTuple):
    """Operands of a GEMM on codes, and the product that it has to return, bf16 [M, N]."""

    a: Tensor
    a_scale: Tensor
    b: Tensor
    b_scale: Tensor
    product: Tensor


class Choices(BaseModel):
    """Stored choices; `names` are those of the fastest GEMMs, by shape."""

    names: dict[str, str] = {}


def fastest_gemm(gemms: Sequence[Gemm], shape: GemmShape, device: torch.device) -> Gemm | None:
    """Return the fastest of `gemms` that are exact at `shape` on `device`; None where none is.

    Raises torch's error where memory is out, which says nothing about a GEMM.
    """
    num_rows, num_outputs, num_inputs, fast = shape
    path = verdicts_path(device).with_suffix(".gemms.json")
    key = f"{num_rows} x {num_outputs} x {num_inputs}{' fast' if fast else ''}"
    remembered = _read(path).names.get(key)
    for gemm in gemms:
        if gemm.__name__ == remembered:
            return gemm
    candidates = exact_gemms(gemms, num_rows, device, fast)
    trial = known_product(num_rows, num_outputs, num_inputs, device)
    seconds = {
        gemm: _seconds(gemm, trial, fast) for gemm in candidates if _is_exact(gemm, trial, fast)
    }
    if not seconds:
        return None
    fastest = min(seconds, key=lambda gemm: seconds[gemm])
    _write(path, key, fastest.__name__)
    return fastest


def exact_gemms(
    gemms: Sequence[Gemm], num_rows: int, device: torch.device, fast_accumulation: bool
) -> list[Gemm]:
    """Return the exact ones of `gemms`, in their order: a small product of `num_rows` rows comes
    out bit for bit on `device`.
    """
    on_cpu = known_product(num_rows, SMALL_N, SMALL_K, torch.device("cpu"))
    trial = KnownProduct(*(tensor.to(device) for tensor in on_cpu))
    return [gemm for gemm in gemms if _is_exact(gemm, trial, fast_accumulation)]


def known_product(
    num_rows: int, num_outputs: int, num_inputs: int, device: torch.device
) -> KnownProduct:
    """Draw operands, the same at every call, and compute their product on `device`."""
    generator = torch.Generator(device).manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        # One byte an element: of a weight of 32B, int64 would take 2 GB on top of the activations.
        drawn = torch.randint(
            low, high, shape, generator=generator, device=device, dtype=torch.int8
        )
        return drawn.to(torch.bfloat16)

    # Elements of a [M, K] are -1 or 1 where chance decides so, else 0: about NONZERO_PER_ROW a row.
    chance = torch.rand(num_rows, num_inputs, generator=generator, device=device)
    a = integers(0, 2, num_rows, num_inputs).mul_(2).sub_(1)
    a.mul_(chance < NONZERO_PER_ROW / num_inputs)
    b = integers(-1, 2, num_outputs, num_inputs)
    a_scale, b_scale = (integers(-9, 4, rows, 1).float().exp2() for rows in (num_rows, num_outputs))
    # Exact in bf16: sums are integers of at most eight bits, scales powers of two.
    product = (a @ b.t()).mul_(a_scale).mul_(b_scale.t())
    a, b = (codes.to(torch.float8_e4m3fn) for codes in (a, b))
    return KnownProduct(a, a_scale, b, b_scale, product)


def _is_exact(gemm: Gemm, trial: KnownProduct, fast_accumulation: bool) -> bool:
    """Check that `gemm` returns the known product bit for bit; log the reason where it does not."""
    try:
        if torch.equal(gemm(*trial[:-1], fast_accumulation), trial.product):
            return True
        fault = "its product is wrong"
    # Errors of torch and of Triton have no common ancestor, and any of them rules this GEMM out.
    except Exception as error:
        if is_allocation_failure(error):
            raise
        fault = first_line(error)
    sizes = " x ".join(str(size) for size in (*trial.product.shape, trial.a.shape[1]))
    device = trial.a.device
    logger.warning("FP8 GEMM %s is not used on %s for %s: %s", gemm.__name__, device, sizes, fault)
    return False


def _seconds(gemm: Gemm, trial: KnownProduct, fast_accumulation: bool) -> float:
    """Return the shortest of several timings."""
    seconds = []
    for _ in range(NUM_TIMINGS):
        _synchronize(trial.a.device)
        start = time.perf_counter()
        gemm(*trial[:-1], fast_accumulation)
        _synchronize(trial.a.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read(path: Path) -> Choices:
    """Read a file of choices. One that is missing or broken holds none."""
    try:
        return Choices.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Choices()


def _write(path: Path, key: str, name: str) -> None:
    """Add a choice. A folder that cannot be written to only costs timing again."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        choices = Choices(names=_read(path).names | {key: name})
        write_whole(path, choices.model_dump_json(indent=2) + "\n")
