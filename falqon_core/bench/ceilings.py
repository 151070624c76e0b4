"""The ceilings of a card, measured through torch: a copy in memory, a bf16 product, an FP8 product.

Everything else in the table is a share of these, so that a card that runs slower than its data
sheet (power limit, heat, a smaller bus) does not make our kernels look worse than they are. The FP8
product is the faster of per-row and per-tensor scales with fast accumulation. One large
square product stands for all shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from falqon_core.bench.timing import median_seconds, what_went_wrong
from falqon_core.contract.errors import DeviceMissing
from falqon_core.ops.scaled_mm import rowwise
from falqon_core.train.device import why_no_gpu


@dataclass(frozen=True)
class CeilingSizes:
    """Bytes of the copy, and rows and columns of the products."""

    copy_bytes: int = 2**30
    gemm: int = 8192


@dataclass(frozen=True)
class Ceilings:
    """Bytes per second (read and written together) and floating-point operations per second;
    `fp8_flops` is None without FP8 hardware.
    """

    device: str
    capability: str | None
    memory_bytes: int | None
    torch: str
    copy_bytes_per_second: float
    bf16_flops: float
    fp8_flops: float | None
    fp8_missing: str | None = None

    @property
    def best_flops(self) -> float:
        """Return the rate of FP8, or of bf16 where there is no FP8."""
        return self.fp8_flops or self.bf16_flops


def require_gpu() -> torch.device:
    """Return the GPU. Raises `DeviceMissing` (param `device`), with the reason, for none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    raise DeviceMissing(
        "device: the benchmark measures an NVIDIA GPU, and there is none to use here: "
        f"{why_no_gpu()}",
        "device",
    )


def measure_ceilings(device: torch.device, budget_seconds: float, sizes: CeilingSizes) -> Ceilings:
    """Measure each of the figures for `budget_seconds`."""
    left, right = (
        torch.randn(sizes.gemm, sizes.gemm, device=device, dtype=torch.bfloat16) for _ in range(2)
    )
    flops = 2.0 * sizes.gemm**3
    bf16 = flops / median_seconds(lambda: left @ right.t(), device, budget_seconds)
    fp8, missing = _fp8_flops(
        left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn), flops, budget_seconds
    )
    name, capability, memory_bytes = _describe(device)
    return Ceilings(
        device=name,
        capability=capability,
        memory_bytes=memory_bytes,
        torch=torch.__version__,
        copy_bytes_per_second=_copy_rate(sizes.copy_bytes, device, budget_seconds),
        bf16_flops=bf16,
        fp8_flops=fp8,
        fp8_missing=missing,
    )


def _describe(device: torch.device) -> tuple[str, str | None, int | None]:
    """Return the name, the compute capability and the memory of `device`."""
    if device.type != "cuda":
        return "cpu", None, None
    properties = torch.cuda.get_device_properties(device)
    return properties.name, f"sm_{properties.major}{properties.minor}", properties.total_memory


def _copy_rate(num_bytes: int, device: torch.device, budget_seconds: float) -> float:
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / median_seconds(lambda: target.copy_(source), device, budget_seconds)


def _fp8_flops(
    left: Tensor, right: Tensor, flops: float, budget_seconds: float
) -> tuple[float | None, str | None]:
    """-> (FLOP/s, None), or (None, why there are none)."""
    rows = torch.ones(len(left), 1, device=left.device)
    unit = torch.ones((), device=left.device)

    def per_row() -> Tensor:
        return rowwise(left, rows, right, rows, True)

    def per_tensor() -> Tensor:
        return torch._scaled_mm(
            left,
            right.t(),
            scale_a=unit,
            scale_b=unit,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )

    rates: list[float] = []
    missing = None
    gemms: tuple[Callable[[], Tensor], ...] = (per_row, per_tensor)
    for gemm in gemms:
        try:
            rates.append(flops / median_seconds(gemm, left.device, budget_seconds))
        except Exception as error:
            # A card without FP8, or without one of the two, raises its own kind of error.
            missing = what_went_wrong(error)
    return (max(rates), None) if rates else (None, missing)
