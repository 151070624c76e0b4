"""The time of a call on a device, and the rest of a time limit.

On a GPU by CUDA events around each call, with the L2 cache emptied in between (Triton's own
benchmark function), so that a kernel reads from memory as it does within a training step. What is
given up: caches that a real predecessor would have left warm.
"""

import statistics
import time
from collections.abc import Callable

import torch

from falqon_core.ops.kernels import triton
from falqon_core.ops.self_check import first_line

WARM_UP_MS = 50


def median_seconds(
    call: Callable[[], object], device: torch.device, budget_seconds: float
) -> float:
    """Return the median of as many calls as `budget_seconds` allows, after some that warm up."""
    if device.type == "cuda":
        return (
            triton.testing.do_bench(
                call, warmup=WARM_UP_MS, rep=1000 * budget_seconds, return_mode="median"
            )
            / 1000
        )
    call()
    deadline = Deadline(budget_seconds)
    measured: list[float] = []
    while not measured or deadline.left > 0:
        start = time.perf_counter()
        call()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def wait_for_device(device: torch.device) -> None:
    """Wait until all work launched on a GPU is done; a CPU has none left."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Deadline:
    """A time limit that has begun."""

    def __init__(self, seconds: float) -> None:
        """Set the deadline this many seconds from now."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; negative when it has passed."""
        return self._end - time.monotonic()


def what_went_wrong(error: Exception) -> str:
    """Return one line for the table."""
    return f"failed: {first_line(error)}"
