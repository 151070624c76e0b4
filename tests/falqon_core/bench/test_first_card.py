"""The stages of a first card that need none, as `benchmarks/first_card.sh` starts them: in the
interpreter, at tiny sizes.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.bench.kernels import LINES

SCRIPT = "benchmarks/first_card.sh"


def run_stage(stage: str, out: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "WHEELS": str(out / "none"),
        "FIRST_CARD_SITE": str(out / "site"),
        "TRITON_INTERPRET": "1",
    }
    return subprocess.run(
        ["bash", SCRIPT, stage, str(out)], env=environment, capture_output=True, text=True
    )


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _no_card() -> None:
    if torch.cuda.is_available():
        pytest.skip("the stages themselves run here")


def test_check_says_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    done = run_stage("check", tmp_path)
    assert done.returncode == 0, done.stderr
    parts = {line["part"]: line["status"] for line in lines_of(tmp_path / "stages.jsonl")}
    assert parts == {"driver": 0, "versions": 0, "doctor-1": 0, "doctor-2": 0}
    (figures,) = lines_of(tmp_path / "versions.txt")
    assert figures["torch"] == version("torch")
    rows = json.loads((tmp_path / "doctor-2.txt").read_text())["rows"]
    assert {row["status"] for row in rows} == {"ok", "skipped"}


@pytest.mark.parametrize("stage", ["products", "step"])
def test_every_figure_is_a_line_of_its_own(stage: str, tmp_path: Path) -> None:
    if stage == "products" and version("torch") < "2.12":
        pytest.skip("this torch's product on a CPU takes no scales of rows")
    done = run_stage(stage, tmp_path)
    assert done.returncode == 0, done.stderr
    (part,) = lines_of(tmp_path / "stages.jsonl")
    assert (part["part"], part["status"]) == (stage, 0), done.stdout
    lines = lines_of(tmp_path / f"{stage}.jsonl")
    assert len(lines) > 5
    assert {line.get("status", "measured") for line in lines} == {"measured"}
    assert {line["device"] for line in lines} == {"cpu"}


def test_every_kernel_is_launched_for_the_sanitizer(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "benchmarks.first_card", "kernels", "--lines", str(path)]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert [line["name"] for line in lines_of(path)] == [line.name for line in LINES]


def test_a_training_that_is_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    done = run_stage("train", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.pop("part"): line for line in lines_of(tmp_path / "train.jsonl")}
    assert lines["stopped"]["exit_code"] == 75, done.stdout
    assert lines["parts"]["exit_code"] == 0
    assert lines["compared"]["same_bits"]


@pytest.mark.parametrize("arguments", [(), ("check",), ("dance", "out"), ("check", "a", "b")])
def test_anything_else_is_told_how_it_is_called(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: " in done.stderr
    assert "check tests products" in done.stderr
