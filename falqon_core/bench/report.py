"""The whole benchmark in order, within its time limit: ceilings, kernels, steps.

A single compilation or step that hangs is not interrupted; the limit decides what
is begun. The report so far is saved after every kernel and every system, so that a command that is
cut off leaves what it has measured.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from falqon_core.bench.ceilings import CeilingSizes, measure_ceilings
from falqon_core.bench.kernels import KernelResult, Shapes, measure_kernels
from falqon_core.bench.model import dimensions_of
from falqon_core.bench.steps import MAX_ROUNDS, StepSetup, StepTimings, measure_steps
from falqon_core.bench.table import Report, bound_seconds
from falqon_core.bench.timing import Deadline
from falqon_core.files import write_whole
from falqon_core.ops.gemm_choice import GemmShape
from falqon_core.ops.scaled_mm import gemm_for


@dataclass(frozen=True)
class TimeLimits:
    """Seconds: in all, of each ceiling, each kernel, each system and workload in a round."""

    total: float
    ceiling: float
    kernel: float
    step: float
    rounds: int


# 30 s of the 8 minutes are for loading and writing
FULL_LIMITS = TimeLimits(total=450, ceiling=1.0, kernel=0.5, step=8.0, rounds=MAX_ROUNDS)
QUICK_LIMITS = TimeLimits(total=150, ceiling=0.3, kernel=0.1, step=2.0, rounds=1)


@dataclass(frozen=True)
class BenchSizes:
    """Sizes of all measurements."""

    ceilings: CeilingSizes
    kernels: Shapes
    steps: StepSetup


SIZES_7B = BenchSizes(CeilingSizes(), Shapes(), StepSetup())


def measure(
    device: torch.device,
    scale: BenchSizes,
    limits: TimeLimits,
    tell: Callable[[str], None],
    save: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Measure everything within the limits; `tell` gets lines of progress, `save` the report after
    each part of it.
    """
    start = time.monotonic()
    deadline = Deadline(limits.total)
    tell("ceilings")
    ceilings = measure_ceilings(device, limits.ceiling, scale.ceilings)
    kernels: list[KernelResult] = []
    gemms: dict[str, str] = {}
    model = in_words(scale.steps)

    def report(steps: list[StepTimings]) -> Report:
        seconds = time.monotonic() - start
        return Report(ceilings, gemms, scale.kernels, kernels, model, steps, seconds)

    for result in measure_kernels(scale.kernels, device, ceilings.capability, limits.kernel):
        tell(f"kernel {result.name}: {result.status}")
        kernels.append(result)
        save(report([]))
    torch.cuda.empty_cache()
    tokens, hidden, intermediate, *_ = scale.kernels
    shapes = {
        "output": GemmShape(tokens, intermediate, hidden, True),
        "grad_input": GemmShape(tokens, hidden, intermediate, False),
    }
    gemms |= {name: gemm_for(device, shape).__name__ for name, shape in shapes.items()}
    steps = measure_steps(
        scale.steps,
        device,
        deadline,
        limits.step,
        tell,
        limits.rounds,
        save=lambda so_far: save(report(so_far)),
    )
    return report(steps)


def in_words(setup: StepSetup) -> str:
    """Return a sentence on the model and the step."""
    size = dimensions_of(setup.config).num_parameters / 1e9
    return (
        f"A Llama of {size:.2f}B random parameters, all {setup.config.num_hidden_layers} layers; "
        f"rank {setup.rank} on every linear; "
        f"{setup.num_records} records a step, at most {setup.record_tokens} tokens each"
    )


def write_json(report: Report, path: Path) -> None:
    """Write everything measured, unrounded; a null SQNR means equal bit for bit."""
    content = asdict(report)
    for step, result in zip(content["steps"], report.steps, strict=True):
        step["bound_seconds"] = bound_seconds(result, report.ceilings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
