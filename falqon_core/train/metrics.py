"""The metrics of every step: its figures beside time, memory and utilization of the device.

Nothing here touches the model or reads a tensor. Seconds are those of the whole step on this
process's clock, so the first step of an attempt includes what is warmed up.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import StepMetrics
from falqon_core.estimate.devices import DEVICES, reported_device
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import training_flops
from falqon_core.train.checkpoint import Progress
from falqon_core.train.step import StepResult

T = TypeVar("T")
MAX_REASON_CHARACTERS = 300
NUM_CORES = len(os.sched_getaffinity(0))


class Meter:
    """The clock of one training, and the metrics of its steps. `num_devices` share each step."""

    def __init__(
        self,
        recipe: Recipe,
        dimensions: ModelDimensions,
        device: torch.device,
        num_devices: int,
        total_steps: int,
    ) -> None:
        self._recipe = recipe
        self._dimensions = dimensions
        self._device = device
        self._total_steps = total_steps
        peak = peak_flops(device)
        self._peak_flops = None if peak is None else peak * num_devices
        self._started_at = self._step_at = time.monotonic()
        self._step_cpu_at = time.process_time()

    @property
    def elapsed_seconds(self) -> float:
        """Return the seconds of this attempt."""
        return time.monotonic() - self._started_at

    def start_step(self) -> None:
        """Start the step's clock."""
        self._step_at = time.monotonic()
        self._step_cpu_at = time.process_time()

    def measure(
        self, result: StepResult, progress: Progress, epoch: float, learning_rate: float
    ) -> StepMetrics:
        """Return the message of the step that `start_step` began; `progress` counts it already."""
        seconds = time.monotonic() - self._step_at
        cpu_seconds = time.process_time() - self._step_cpu_at
        flops = training_flops(
            self._dimensions, self._recipe, result.num_tokens, result.keys_per_token
        )
        return StepMetrics(
            step=progress.step,
            total_steps=self._total_steps,
            epoch=epoch,
            **{f"train_{name}": value for name, value in result.metrics.items()},
            learning_rate=learning_rate,
            grad_norm=result.grad_norm,
            tokens=result.num_tokens,
            trained_tokens=progress.trained_tokens,
            tokens_per_second=result.num_tokens / seconds,
            elapsed_seconds=self.elapsed_seconds,
            codes_changed=result.codes_changed,
            expert_load=result.expert_load.most_over_mean if result.expert_load else None,
            unused_experts=result.expert_load.num_unused if result.expert_load else None,
            memory_bytes=memory_bytes(self._device),
            mfu=None if self._peak_flops is None else flops / seconds / self._peak_flops,
            cpu_utilization=min(100.0, 100 * cpu_seconds / seconds / NUM_CORES),
            gpu_utilization=gpu_utilization(self._device),
            gpu_temperature=gpu_temperature(self._device),
        )


def peak_flops(device: torch.device) -> float | None:
    """Return the peak of the arithmetic the trainer uses there, in FLOP/s; None for a GPU that
    `estimate.devices` does not know.
    """
    if device.type == "cpu":
        return DEVICES["cpu"].tflops * 1e12 * torch.get_num_threads()
    name = _read_gauge("name", torch.cuda.get_device_name, device)
    known_device = None if name is None else reported_device(name)
    return None if known_device is None else known_device.tflops * 1e12


def memory_bytes(device: torch.device) -> int:
    """Return the most that was allocated so far; 0 if torch does not report it."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _read_gauge("memory", torch.cuda.max_memory_allocated, device) or 0


def gpu_utilization(device: torch.device) -> float | None:
    """Return the percentage of the driver's last sampling period in which a kernel ran; None on a
    CPU and where NVML's binding is not installed.
    """
    return _read_gauge("utilization", torch.cuda.utilization, device)


def gpu_temperature(device: torch.device) -> float | None:
    """Return degrees Celsius; None as above."""
    return _read_gauge("temperature", torch.cuda.temperature, device)


def _read_gauge(name: str, read: Callable[[torch.device], T], device: torch.device) -> T | None:
    """Read a figure that is only shown; it ends no training. NVML raises errors of its own kinds,
    on a MIG slice or a vGPU for each of these.
    """
    if device.type == "cpu":
        return None
    try:
        return read(device)
    except Exception as error:
        _log_once(name, f"{type(error).__name__}: {error}")
        return None


@cache
def _log_once(name: str, reason: str) -> None:
    sys.stderr.write(f"the GPU's {name} is not shown: {reason[:MAX_REASON_CHARACTERS]}\n")
