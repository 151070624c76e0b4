"""The time of a training step by part, for each method.

Forward and backward are profiled operator by operator, by their own time without that of their
calls; clipping and the update, and what a method does after it, are timed apart. The output head
and the loss are among the products and the elementwise operators. On a GPU an operator's time is
that of the kernels it launches.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from falqon_core.bench.model import random_model
from falqon_core.bench.steps import LEARNING_RATE, StepSetup, workloads
from falqon_core.bench.studies import Bars, StudyReport, Tell, table
from falqon_core.bench.timing import wait_for_device
from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS, MethodName
from falqon_core.data.loader import Microbatch
from falqon_core.methods import METHOD_CLASSES, check_packages, create_method
from falqon_core.objectives.supervised import Supervised
from falqon_core.train.optimizer import Optimizer

MEASURED_STEPS = 3
# Parts by a piece of an operator's name; the first that fits counts.
PART_WORDS = {
    "attention": ("attention", "attn", "softmax"),
    "quantizing": ("quantize", "_4bit", "float8", "round", "amax", "amin", "bucketize"),
    "products": ("mm", "bmm", "linear", "gemm", "matmul"),
}
ELEMENTWISE = "elementwise and copies"
OPTIMIZER, AFTER_STEP = "optimizer", "after the step"
PART_NAMES = (*PART_WORDS, ELEMENTWISE, OPTIMIZER, AFTER_STEP)


@dataclass(frozen=True)
class Breakdown:
    """Seconds of one step by part."""

    method: MethodName
    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        """Return the seconds of the step."""
        return sum(self.parts.values())


def study_breakdown(device: torch.device, setup: StepSetup, tell: Tell) -> StudyReport:
    """Measure every method. Return the table and the picture."""
    breakdowns = []
    for method in METHOD_CLASSES:
        tell(METHOD_SPECS[method].title)
        breakdowns.append(measure_breakdown(method, device, setup))
    rows = [
        [METHOD_SPECS[method].title, f"{1e3 * breakdown.seconds:.0f}"]
        + [f"{breakdown.parts[name] / breakdown.seconds:.1%}" for name in PART_NAMES]
        for breakdown in breakdowns
        for method in [breakdown.method]
    ]
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    text = (
        f"# Where a step's time goes\n\nOn {place}; {setup.num_records} records of at most "
        f"{setup.record_tokens} tokens, rank {setup.rank}, {MEASURED_STEPS} steps.\n\n"
        + table(["method", "ms a step", *PART_NAMES], rows)
    )
    bars = Bars(
        "Time of a step by part",
        "ms",
        [METHOD_SPECS[breakdown.method].title for breakdown in breakdowns],
        {name: [1e3 * breakdown.parts[name] for breakdown in breakdowns] for name in PART_NAMES},
    )
    return StudyReport(text, bars)


def measure_breakdown(name: MethodName, device: torch.device, setup: StepSetup) -> Breakdown:
    """Return the mean of `MEASURED_STEPS` steps, after one that warms up."""
    check_packages(name)
    recipe = setup.recipe(device)
    if name != "falqon":
        options = {"method": name, "rank": setup.rank, "max_seq_length": setup.record_tokens}
        recipe = Recipe.model_validate(options).resolved(setup.num_records)
    model = random_model(setup.config, device)
    method = create_method(recipe)
    method.prepare(model, [])
    optimizer = Optimizer(method.parameters(), weight_decay=0.0, max_grad_norm=1.0)
    load = workloads(setup)[1]
    batches = load.microbatches(load.num_tokens)
    _forward_backward(model, batches)
    optimizer.step(LEARNING_RATE)
    method.after_step()
    parts: dict[str, float] = defaultdict(float)
    for _ in range(MEASURED_STEPS):
        with profile(activities=_activities(device)) as profiler:
            _forward_backward(model, batches)
            wait_for_device(device)
        for event in profiler.key_averages():
            own = event.self_device_time_total if device.type == "cuda" else None
            seconds = (event.self_cpu_time_total if own is None else own) / 1e6
            parts[part_of(event.key)] += seconds / MEASURED_STEPS
        start = time.perf_counter()
        optimizer.clip()
        optimizer.step(LEARNING_RATE)
        wait_for_device(device)
        updated = time.perf_counter()
        method.after_step()
        wait_for_device(device)
        parts[OPTIMIZER] += (updated - start) / MEASURED_STEPS
        parts[AFTER_STEP] += (time.perf_counter() - updated) / MEASURED_STEPS
    return Breakdown(name, parts)


def part_of(operator: str) -> str:
    """Return the part of a step that an operator's name belongs to."""
    words = operator.lower()
    for part, names in PART_WORDS.items():
        if any(name in words for name in names):
            return part
    return ELEMENTWISE


def _forward_backward(model: Any, batches: Sequence[Microbatch]) -> None:
    objective = Supervised()
    count = sum(objective.count(microbatch) for microbatch in batches)
    for microbatch in batches:
        (objective.loss(model, microbatch)[0] / count).backward()


def _activities(device: torch.device) -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *gpu]
