"""The whole benchmark on tiny sizes: on a CPU with the kernels in Triton's interpreter."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from falqon_core.bench.ceilings import CeilingSizes
from falqon_core.bench.kernels import LINES, Shapes
from falqon_core.bench.report import BenchSizes, TimeLimits, measure, write_json
from falqon_core.bench.steps import SYSTEMS, StepSetup
from falqon_core.bench.table import Report, markdown
from tests.falqon_core.ops.devices import KERNEL_DEVICE

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
)
SETUP = StepSetup(CONFIG, rank=4, num_records=4, record_tokens=24)
LIMITS = TimeLimits(total=1e9, ceiling=0, kernel=0, step=0, rounds=2)


@pytest.fixture(scope="module")
def progress() -> list[str]:
    return []


@pytest.fixture(scope="module")
def saved() -> list[tuple[int, list[int]]]:
    return []


@pytest.fixture(scope="module")
def report(
    progress: list[str],
    saved: list[tuple[int, list[int]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Report:
    path = tmp_path_factory.mktemp("results") / "so_far.json"

    def save(so_far: Report) -> None:
        write_json(so_far, path)
        content = json.loads(path.read_text())
        rounds = [step["rounds"] for step in content["steps"][::2]]
        saved.append((len(content["kernels"]), rounds))

    return measure(
        torch.device(KERNEL_DEVICE),
        BenchSizes(CeilingSizes(2**12, 32), Shapes(6, 32, 48, 5, 3, 16), SETUP),
        LIMITS,
        progress.append,
        save,
    )


def test_every_kernel_is_measured_and_agrees_with_its_oracle(report: Report) -> None:
    assert [kernel.name for kernel in report.kernels] == [line.name for line in LINES]
    for kernel in report.kernels:
        if kernel.name == "own GEMM, FP16 sums" and report.ceilings.capability not in (
            "sm_89",
            "sm_120",
        ):
            assert kernel.status == f"not on {report.ceilings.capability or 'cpu'}: no faster there"
            continue
        assert kernel.status == "measured", kernel
        assert kernel.seconds > 0
        is_product = any(
            word in kernel.name for word in ("GEMM", "scaled_mm", "gradient of", "product")
        )
        assert (kernel.flops > 0) == is_product
        assert kernel.moved > 0
        assert kernel.sqnr_db is None or kernel.sqnr_db > 40, kernel


def test_bytes_that_must_move(report: Report) -> None:
    moved = {kernel.name: kernel.moved for kernel in report.kernels}
    tokens = 6
    hidden = 32
    inner = 48
    rank = 5
    assert moved["quantize"] == 3 * tokens * hidden + 4 * tokens
    assert moved["swiglu forward"] == 6 * tokens * inner
    assert (
        moved["refresh (anchored)"]
        == 3 * inner * hidden + 8 * inner + 4 * inner * rank + 2 * rank * hidden
    )


def test_ours_and_lora_are_measured_and_absent_peers_are_named(report: Report) -> None:
    assert [(step.system, step.workload) for step in report.steps] == [
        (system.name, load) for system in SYSTEMS for load in ("published", "packed")
    ]
    for step in report.steps[:4]:
        assert step.status == "measured", step
        assert (step.rounds, len(step.seconds), step.microbatch_tokens, step.checkpointing) == (
            2,
            4,
            96,
            False,
        )
    for step in report.steps[4:]:
        assert step.status == "measured" or step.status.startswith("not installed: "), step
    assert all(f"| {system.name}" in markdown(report) for system in SYSTEMS)


def test_progress_is_told(report: Report, progress: list[str]) -> None:
    assert progress[0] == "ceilings"
    assert f"round 2: {SYSTEMS[1].name}" in progress


def test_what_is_measured_is_saved_after_every_kernel_and_every_system(
    report: Report, saved: list[tuple[int, list[int]]]
) -> None:
    num_kernels = len(LINES)
    assert saved[:num_kernels] == [(number + 1, []) for number in range(num_kernels)]
    after_systems = [rounds[:2] for _, rounds in saved[num_kernels:]]
    assert after_systems[:2] == [[1, 0], [1, 1]]
    assert after_systems[-1] == [2, 2]


def test_the_json_holds_everything(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "results" / "gpu.json"
    write_json(report, path)
    content = json.loads(path.read_text())
    assert content["steps"][0]["seconds"] == report.steps[0].seconds
    assert (
        content["steps"][0]["bound_seconds"]
        == report.steps[0].bound_flops / report.ceilings.best_flops
    )
    assert len(content["kernels"]) == len(LINES)
    assert content["ceilings"]["device"] == report.ceilings.device
