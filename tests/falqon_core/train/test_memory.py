"""Memory is limited for real, in a process of its own: its address space may not grow beyond a
number of bytes.
"""

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.cli import app
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import OutOfMemory
from falqon_core.contract.messages import ExitCode
from falqon_core.estimate import host_memory
from falqon_core.train import trainer
from falqon_core.train.memory import available_bytes, fit_to_memory
from falqon_core.train.model import load_dimensions
from tests.falqon_core.train.processes import ENVIRONMENT, write_config
from tests.support.forks import Fork

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    path = tmp_path / "long.jsonl"
    messages = [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "seven blue kettles for nine coins " * 150},
    ]
    path.write_text((json.dumps({"messages": messages}) + "\n") * 48)
    return path


def train_limited(
    mebibytes: int, when: str, model: Path, train_file: Path, folder: Path, recipe: dict[str, Any]
) -> tuple[int, str]:
    """Run the command; returns its exit code and what it wrote."""
    config = write_config(folder / "config.json", model, train_file, recipe)
    log = folder / "log"
    log.unlink(missing_ok=True)
    arguments = ["train", "--config", str(config), "--output", str(folder / "out")]
    process = Fork(_run, mebibytes, when, arguments, environment=ENVIRONMENT, output=log)
    return process.wait(300), log.read_text()


def _run(mebibytes: int, when: str, arguments: list[str]) -> None:
    """Start the command line and limit the address space to what is used already and `mebibytes`
    more: before the training is set up, or between that and its first step.
    """

    class Limited(trainer.Trainer):
        def run(self) -> ExitCode:
            if when == "later":
                _limit(mebibytes)
            return super().run()

    trainer.Trainer = Limited  # type: ignore[misc]
    if when == "first":
        _limit(mebibytes)
    app(arguments)


def _limit(mebibytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + mebibytes * MIB,) * 2)


def _address_space() -> int:
    """Return the bytes of this process's own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmSize:"))


def test_a_training_that_cannot_fit_is_refused_at_the_start(
    tiny_folder: Path, long_file: Path, tmp_path: Path
) -> None:
    recipe = {
        "max_seq_length": 262144,
        "rank": 16,
        "batch_size": 4,
        "max_steps": 1,
        "a_init": "orthonormal",
    }
    code, output = train_limited(500, "first", tiny_folder, long_file, tmp_path, recipe)
    assert code == ExitCode.OUT_OF_MEMORY, output
    match = re.search(
        r"largest configuration that fits is rank 16, max_seq_length (\d+), microbatch_tokens "
        r"(\d+)",
        output,
    )
    assert match, output
    assert not (tmp_path / "out").exists()

    recipe |= {"max_seq_length": int(match[1])}
    code, output = train_limited(500, "first", tiny_folder, long_file, tmp_path, recipe)
    assert code == ExitCode.DONE, output


def test_an_allocation_that_fails_in_a_step_names_what_would_fit(
    tiny_folder: Path, long_file: Path, tmp_path: Path
) -> None:
    recipe = {
        "max_seq_length": 1024, "microbatch_tokens": 49152, "rank": 16, "batch_size": 48,
        "max_steps": 1, "a_init": "orthonormal",
    }  # fmt: skip
    code, output = train_limited(200, "later", tiny_folder, long_file, tmp_path, recipe)
    assert code == ExitCode.OUT_OF_MEMORY, output
    assert (
        "memory ran out with rank 16, max_seq_length 1024, microbatch_tokens 49152 without "
        "activation_checkpointing" in output
    )
    match = re.search(r"largest microbatch_tokens that would fit is (\d+)", output)
    assert match, output
    assert 1024 <= int(match[1]) < 49152

    code, output = train_limited(
        200,
        "later",
        tiny_folder,
        long_file,
        tmp_path,
        recipe | {"microbatch_tokens": int(match[1])},
    )
    assert code == ExitCode.DONE, output


def test_available_memory_heeds_the_limit_of_the_process() -> None:
    before = available_bytes(CPU)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = _address_space()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * MIB, hard))
        assert 200 * MIB < available_bytes(CPU) <= 300 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert before > 0


def test_available_memory_heeds_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = available_bytes(CPU)
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{30 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"active_file 7\ninactive_file {10 * MIB}\nslab 3\n")
    assert unlimited > 80 * MIB
    assert available_bytes(CPU) == 80 * MIB, "what the file cache holds can be had back"


def test_placement_uses_the_available_memory(tiny_folder: Path) -> None:
    dimensions = load_dimensions(tiny_folder)
    recipe = Recipe(max_seq_length=512, rank=8).resolved(100)
    ample = fit_to_memory(recipe, dimensions, CPU, 2**40).recipe
    assert (ample.microbatch_tokens, ample.activation_checkpointing) == (4096, False)
    fixed = fit_to_memory(
        recipe.model_copy(update={"microbatch_tokens": 8192, "activation_checkpointing": True}),
        dimensions,
        CPU,
        2**40,
    ).recipe
    assert (fixed.microbatch_tokens, fixed.activation_checkpointing) == (8192, True)
    with pytest.raises(
        OutOfMemory, match="no configuration of this model fits, one of about 0 million parameters"
    ):
        fit_to_memory(recipe, dimensions, CPU, 1000)
