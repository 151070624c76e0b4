"""Memory is limited for real, in a process of its own: its address space may not grow beyond a number of bytes."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import OutOfMemory
from falqon_core.contract.messages import ExitCode
from falqon_core.train import memory
from falqon_core.train.memory import available_bytes, place
from falqon_core.train.model import load_dimensions
from tests.falqon_core.train.processes import ENVIRONMENT, write_config

CPU = torch.device("cpu")
MIB = 2**20
# Starts the command line and limits the address space to what is used already and `sys.argv[1]` MiB more: before the training is set
# up, or between that and its first step.
LIMITED = """
import resource, sys
from pathlib import Path
import torch, transformers
from falqon_core.train import trainer

def limit():
    used = next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (used + int(mebibytes) * 2**20,) * 2)

class Limited(trainer.Trainer):
    def run(self):
        if when == "later":
            limit()
        return super().run()

_, mebibytes, when, *arguments = sys.argv
trainer.Trainer = Limited
if when == "first":
    limit()
from falqon_core.cli import app
app(arguments)
"""


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    path = tmp_path / "long.jsonl"
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "seven blue kettles for nine coins " * 150}]
    path.write_text((json.dumps({"messages": messages}) + "\n") * 48)
    return path


def train_limited(
    mebibytes: int, when: str, model: Path, train_file: Path, folder: Path, recipe: dict[str, Any]
) -> "subprocess.CompletedProcess[str]":
    config = write_config(folder / "config.json", model, train_file, recipe)
    command = [sys.executable, "-c", LIMITED, str(mebibytes), when, "train", "--config", config, "--output", folder / "out"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def test_what_cannot_fit_is_refused_at_the_start(tiny_folder: Path, long_file: Path, tmp_path: Path) -> None:
    recipe = {"max_seq_length": 262144, "rank": 16, "batch_size": 4, "max_steps": 1, "a_init": "orthonormal"}
    done = train_limited(500, "first", tiny_folder, long_file, tmp_path, recipe)
    assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
    named = re.search(r"largest configuration that fits is rank 16, max_seq_length (\d+), microbatch_tokens (\d+)", done.stdout)
    assert named, done.stdout
    assert not (tmp_path / "out").exists()

    recipe |= {"max_seq_length": int(named[1])}
    done = train_limited(500, "first", tiny_folder, long_file, tmp_path, recipe)
    assert done.returncode == ExitCode.DONE, done.stdout + done.stderr


def test_an_allocation_that_fails_in_a_step_names_what_would_fit(tiny_folder: Path, long_file: Path, tmp_path: Path) -> None:
    recipe = {
        "max_seq_length": 1024, "microbatch_tokens": 49152, "rank": 16, "batch_size": 48, "max_steps": 1, "a_init": "orthonormal",
    }  # fmt: skip
    done = train_limited(200, "later", tiny_folder, long_file, tmp_path, recipe)
    assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
    assert "memory ran out with rank 16, max_seq_length 1024, microbatch_tokens 49152 without activation_checkpointing" in done.stdout
    named = re.search(r"largest microbatch_tokens that would fit is (\d+)", done.stdout)
    assert named, done.stdout
    assert 1024 <= int(named[1]) < 49152

    done = train_limited(200, "later", tiny_folder, long_file, tmp_path, recipe | {"microbatch_tokens": int(named[1])})
    assert done.returncode == ExitCode.DONE, done.stdout + done.stderr


def test_what_is_available_heeds_the_limit_of_the_process() -> None:
    before = available_bytes(CPU)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * MIB, hard))
        assert 200 * MIB < available_bytes(CPU) <= 300 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert before > 0


def test_what_is_available_heeds_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = available_bytes(CPU)
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{30 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"active_file 7\ninactive_file {10 * MIB}\nslab 3\n")
    assert unlimited > 80 * MIB
    assert available_bytes(CPU) == 80 * MIB, "what the file cache holds can be had back"


def test_placing_takes_what_is_there(tiny_folder: Path) -> None:
    dimensions, recipe = load_dimensions(tiny_folder), Recipe(max_seq_length=512, rank=8).resolved(100)
    ample = place(recipe, dimensions, CPU, 2**40)
    assert (ample.microbatch_tokens, ample.activation_checkpointing) == (4096, False)
    asked = place(recipe.model_copy(update={"microbatch_tokens": 8192, "activation_checkpointing": True}), dimensions, CPU, 2**40)
    assert (asked.microbatch_tokens, asked.activation_checkpointing) == (8192, True)
    with pytest.raises(OutOfMemory, match="no configuration of this model fits, one of about 0 million parameters"):
        place(recipe, dimensions, CPU, 1000)
