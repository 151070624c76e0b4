"""The whole benchmark on tiny sizes: on a CPU with the kernels in Triton's interpreter."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from falqon_core.bench.ceilings import Sizes
from falqon_core.bench.kernels import LINES, Shapes
from falqon_core.bench.report import Limits, Scale, measure, write_json
from falqon_core.bench.steps import SYSTEMS, Setup
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
SETUP = Setup(CONFIG, rank=4, num_records=4, record_tokens=24)
LIMITS = Limits(total=1e9, ceiling=0, kernel=0, step=0, rounds=2)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(told: list[str]) -> Report:
    return measure(torch.device(KERNEL_DEVICE), Scale(Sizes(2**12, 32), Shapes(6, 32, 48, 5, 3), SETUP), LIMITS, told.append)


def test_every_kernel_is_measured_and_agrees_with_its_oracle(report: Report) -> None:
    assert [one.name for one in report.kernels] == [line.name for line in LINES]
    for one in report.kernels:
        if one.name == "own GEMM, FP16 sums" and report.ceilings.capability not in ("sm_89", "sm_120"):
            assert one.status == f"not on {report.ceilings.capability or 'cpu'}: no faster there"
            continue
        assert one.status == "measured", one
        assert one.seconds > 0
        assert (one.flops > 0) == ("GEMM" in one.name or "scaled_mm" in one.name)
        assert one.moved > 0
        assert one.sqnr_db is None or one.sqnr_db > 40, one


def test_bytes_that_must_move(report: Report) -> None:
    moved = {one.name: one.moved for one in report.kernels}
    tokens, hidden, inner, rank = 6, 32, 48, 5
    assert moved["quantize"] == 3 * tokens * hidden + 4 * tokens
    assert moved["swiglu forward"] == 6 * tokens * inner
    assert moved["refresh (anchored)"] == 5 * inner * hidden + 4 * inner + 4 * inner * rank + 2 * rank * hidden


def test_ours_and_lora_are_measured_and_absent_peers_are_named(report: Report) -> None:
    assert [(one.system, one.workload) for one in report.steps] == [
        (system.name, load) for system in SYSTEMS for load in ("published", "packed")
    ]
    for one in report.steps[:4]:
        assert one.status == "measured", one
        assert (one.rounds, len(one.seconds), one.microbatch_tokens, one.checkpointing) == (2, 4, 96, False)
    for one in report.steps[4:]:
        assert one.status == "measured" or one.status.startswith("not installed: "), one
    assert all(f"| {system.name}" in markdown(report) for system in SYSTEMS)


def test_progress_is_told(report: Report, told: list[str]) -> None:
    assert told[0] == "ceilings"
    assert f"round 2: {SYSTEMS[1].name}" in told


def test_the_json_holds_everything(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "results" / "gpu.json"
    write_json(report, path)
    content = json.loads(path.read_text())
    assert content["steps"][0]["seconds"] == report.steps[0].seconds
    assert content["steps"][0]["bound_seconds"] == report.steps[0].bound_flops / report.ceilings.best_flops
    assert len(content["kernels"]) == len(LINES)
    assert content["ceilings"]["device"] == report.ceilings.device
