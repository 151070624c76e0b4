"""Measurements of a new card beside `bench` and the tests: `benchmarks/first_card.sh` starts them.

Every figure is a JSON line in the file that `--lines` names, written as soon as it is there, and
printed. Without a card the sizes are tiny, and kernels run in Triton's interpreter
(TRITON_INTERPRET=1): a rehearsal, whose figures mean nothing.
"""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from falqon_core.bench.kernels import KernelDraw, Shapes, measure_kernels
from falqon_core.bench.model import dimensions_of
from falqon_core.bench.steps import (
    OUR_SYSTEM,
    MeasuredTraining,
    PassSize,
    StepSetup,
    StepTimings,
    Workload,
    workloads,
)
from falqon_core.bench.timing import median_seconds, what_went_wrong
from falqon_core.contract.messages import ExitCode
from falqon_core.estimate.memory import training_memory_bytes
from falqon_core.ops import attention
from falqon_core.ops.scaled_mm import GEMMS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_CARD = DEVICE.type == "cuda"
PACKAGES = ("torch", "triton", "transformers", "numpy", "pydantic", "peft", "torchao")
# [O, I] of Llama-7B: q, k and v in one product with their A; o; gate and up; down.
PRODUCTS = {
    "qkv": (12480, 4096),
    "o": (4160, 4096),
    "gate_up": (22144, 4096),
    "down": (4160, 11008),
}
ROWS = (528, 1056, 2112, 8448)
TINY_PRODUCTS = {"qkv": (48, 32)}
TINY_ROWS = (16,)
TINY_SHAPES = Shapes(
    tokens=8, hidden=32, intermediate=48, rank=5, update_rows=3, head_dim=16, vocabulary=97
)
TINY_SETUP = StepSetup(
    LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    ),
    rank=4,
    num_records=4,
    record_tokens=24,
)
SECONDS_OF_PRODUCT = 0.2 if ON_CARD else 0.0
SECONDS_OF_STEP = 20.0 if ON_CARD else 0.0
PROFILED_STEPS = 3
TOP_KERNELS = 30
TRAINED_STEPS = 400 if ON_CARD else 20
CHECKPOINT_STEPS = TRAINED_STEPS // 20

Write = Callable[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {
        "versions": versions,
        "kernels": kernels,
        "products": products,
        "step": step,
        "train": train,
    }
    parser.add_argument("part", choices=parts)
    parser.add_argument("--lines", type=Path, help="file that gets a JSON line for each figure")
    arguments = parser.parse_args()
    parts[arguments.part](partial(write_line, arguments.lines))


def write_line(path: Path | None, **figures: Any) -> None:
    """Print the figures, and append them to `path`."""
    line = json.dumps({"device": device_name()} | figures)
    print(line, flush=True)
    if path is not None:
        with path.open("a") as file:
            file.write(line + "\n")


def device_name() -> str:
    return torch.cuda.get_device_name(DEVICE) if ON_CARD else "cpu"


def versions(write: Write) -> None:
    """Name what is installed, and the card."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "missing"
    card: dict[str, Any] = {}
    if ON_CARD:
        properties = torch.cuda.get_device_properties(DEVICE)
        card = {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    write(python=platform.python_version(), cuda=torch.version.cuda, **installed, **card)


def kernels(write: Write) -> None:
    """Launch every kernel at small sizes, as tools need it that slow a program down."""
    capability = None
    if ON_CARD:
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability(DEVICE))
    for result in measure_kernels(TINY_SHAPES, DEVICE, capability, 0.0):
        write(**asdict(result))


def products(write: Write) -> None:
    """Time each way to multiply FP8 codes at the shapes of a 7B model, by rows."""
    shapes, row_numbers = (PRODUCTS, ROWS) if ON_CARD else (TINY_PRODUCTS, TINY_ROWS)
    draw = KernelDraw(DEVICE)
    for name, (outputs, inputs) in shapes.items():
        weight = draw.qdata(outputs, inputs)
        for rows in row_numbers:
            x = draw.qdata(rows, inputs)
            for gemm in GEMMS:
                for fast in (True, False):
                    figures = {"gemm": gemm.__name__, "fast_accumulation": fast}
                    call = partial(gemm, *x, *weight, fast)
                    write(shape=name, rows=rows, **figures, **rate_of(call, rows, outputs, inputs))


def rate_of(call: Callable[[], Tensor], rows: int, outputs: int, inputs: int) -> dict[str, Any]:
    """Return the seconds of a product and its rate, or the reason why it fails."""
    try:
        seconds = median_seconds(call, DEVICE, SECONDS_OF_PRODUCT)
    except Exception as error:
        return {"status": what_went_wrong(error)}
    tflops = 2e-12 * rows * outputs * inputs / seconds
    return {"status": "measured", "seconds": seconds, "tflops": tflops}


def step(write: Write) -> None:
    """Time steps of a 7B model by the size of a pass, then without a fixed order of attention, and
    profile a few.
    """
    setup = StepSetup() if ON_CARD else TINY_SETUP
    recipe = setup.recipe(DEVICE)
    training = MeasuredTraining(OUR_SYSTEM, setup, recipe, DEVICE)
    padded, packed = workloads(setup)
    largest = setup.num_records * setup.record_tokens
    for load in (padded, packed):
        for tokens in dict.fromkeys((largest, largest // 4, setup.record_tokens)):
            figures = timed(training, load, tokens)
            plan = {"microbatch_tokens": tokens, "activation_checkpointing": False}
            planned = recipe.model_copy(update=plan)
            needed = training_memory_bytes(dimensions_of(setup.config), planned, not ON_CARD)
            write(load=load.name, pass_tokens=tokens, planned_bytes=needed, **figures)
    with without_fixed_order():
        write(load=padded.name, fixed_order=False, **timed(training, padded, largest))
    write(load=padded.name, profile=profiled(training, padded, largest))


def timed(training: MeasuredTraining, load: Workload, tokens: int) -> dict[str, Any]:
    """Return the figures of one placement, or the reason why it fails."""
    result = StepTimings(OUR_SYSTEM.name, load.name, load.num_tokens, 0.0)
    try:
        training.measure(load, result, [PassSize(tokens, False)], SECONDS_OF_STEP)
    except Exception as error:
        return {"status": what_went_wrong(error)}
    seconds = {"seconds": result.seconds, "median_seconds": result.median_seconds}
    return {"status": result.status, "peak_bytes": result.peak_bytes} | seconds


@contextmanager
def without_fixed_order() -> Iterator[None]:
    in_order = attention.in_fixed_order
    attention.in_fixed_order = lambda attend: attend()
    try:
        yield
    finally:
        attention.in_fixed_order = in_order


def profiled(training: MeasuredTraining, load: Workload, tokens: int) -> dict[str, Any]:
    """Return the seconds of a few steps, those in which the card computed, its launches and the
    kernels that took the most.
    """
    batches = load.microbatches(tokens)
    activities = [ProfilerActivity.CUDA if ON_CARD else ProfilerActivity.CPU]
    try:
        with profile(activities=activities) as trace:
            start = time.perf_counter()
            for _ in range(PROFILED_STEPS):
                training.step(load, batches)
            if ON_CARD:
                torch.cuda.synchronize(DEVICE)
            seconds = time.perf_counter() - start
    except Exception as error:
        return {"status": what_went_wrong(error)}
    rows = [
        (row.key, (row.self_device_time_total if ON_CARD else row.self_cpu_time_total), row.count)
        for row in trace.key_averages()
    ]
    rows.sort(key=lambda row: -row[1])
    return {
        "status": "measured",
        "seconds": seconds,
        "busy_seconds": sum(micros for _, micros, _ in rows) / 1e6,
        "launches": sum(count for _, _, count in rows),
        "top": [
            {"kernel": name, "seconds": micros / 1e6, "launches": count}
            for name, micros, count in rows[:TOP_KERNELS]
        ],
    }


def train(write: Write) -> None:
    """Train falqon-tiny with its certificate, whole and stopped by a signal in between, and compare
    the bytes of both models.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / "falqon-tiny"
        imported = core("import", "builtin:falqon-tiny", "--output", str(model)).wait()
        write(part="import", exit_code=imported)
        config = folder / "config.json"
        config.write_text(json.dumps(training_config(model)))
        digests = []
        for name in ("whole", "parts"):
            output = folder / name
            if name == "parts":
                write(part="stopped", exit_code=stop_after_checkpoint(config, output))
            start = time.perf_counter()
            code = core("train", "--config", str(config), "--output", str(output)).wait()
            write(part=name, exit_code=code, seconds=time.perf_counter() - start)
            weights = output / "model" / "model.safetensors"
            content = weights.read_bytes() if weights.exists() else name.encode()
            digests.append(hashlib.sha256(content).hexdigest())
        write(part="compared", same_bits=digests[0] == digests[1])
        sys.exit(0 if digests[0] == digests[1] else 1)


def training_config(model: Path) -> dict[str, Any]:
    recipe = {
        "rank": 16,
        "max_seq_length": 128,
        "batch_size": 8,
        "num_epochs": 50,
        "max_steps": TRAINED_STEPS,
        "checkpoint_every": CHECKPOINT_STEPS,
    }
    return {
        "model": str(model),
        "train_file": "demo/support_desk.jsonl",
        "device": DEVICE.type,
        "num_threads": 1,
        "recipe": recipe,
    }


def stop_after_checkpoint(config: Path, output: Path) -> int:
    """Start a training and end it with SIGTERM after its first checkpoint; return its exit code,
    which is that of a stopped training, or 0 where it was faster than the signal.
    """
    process = core("train", "--config", str(config), "--output", str(output))
    while process.poll() is None and not any((output / "checkpoints").glob("*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    assert code in (ExitCode.DONE, ExitCode.STOPPED), f"the training ended with {code}"
    return code


def core(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "falqon_core", *arguments])


if __name__ == "__main__":
    main()
