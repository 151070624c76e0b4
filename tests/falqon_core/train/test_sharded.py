"""A model that the memory of one process does not hold, trained by several that keep a part of it
each, against as many that hold it whole: the same records, the same bits.
"""

import math
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import (
    Evaluated,
    ExitCode,
    Failed,
    Finished,
    Log,
    Merged,
    Sampled,
    Started,
    StepMetrics,
    TrainerMessage,
    UntouchedEvaluated,
)
from falqon_core.estimate import host_memory
from falqon_core.estimate.memory import RESERVED_BYTES, USABLE_SHARE, training_memory_bytes
from falqon_core.estimate.placement import WHOLE, Placement
from falqon_core.meld import linear
from falqon_core.train import evaluator
from falqon_core.train.checkpoint import Progress
from falqon_core.train.early_stopping import record_evaluation
from falqon_core.train.model import load_dimensions
from tests.falqon_core.meld.models import fp8_weight
from tests.falqon_core.train.processes import ranks, write_config
from tests.falqon_core.train.trainings import bytes_of, of, resize

NUM_STEPS = 4
BEST_STEP = 2
RECIPE: dict[str, Any] = {
    "rank": 8, "max_seq_length": 64, "microbatch_tokens": 64, "batch_size": 5,
    "max_steps": NUM_STEPS, "num_epochs": 3, "checkpoint_every": 100, "a_init": "gradient",
    "activation_checkpointing": False, "base_copy": "device",
}  # fmt: skip
STOPS_EARLY: dict[str, Any] = RECIPE | {
    "validation_fraction": 0.1, "eval_every": BEST_STEP, "early_stopping_patience": 2,
    "num_samples": 1, "sample_tokens": 4, "learning_rate": 1.0,
}  # fmt: skip


def limits(folder: Path, model: Path, recipe: dict[str, Any], size: int) -> Path:
    """Return a folder of control groups that grants `size` processes too little memory for the
    whole model.
    """
    resolved = Recipe.model_validate(recipe).resolved(30)
    dimensions = load_dimensions(model)
    whole, sharded = (
        training_memory_bytes(dimensions, resolved, True, placement)
        for placement in (WHOLE, Placement(num_shards=size))
    )
    available = math.floor((whole - 1 + RESERVED_BYTES) / USABLE_SHARE)
    assert sharded <= USABLE_SHARE * available - RESERVED_BYTES < whole
    folder.mkdir()
    (folder / "memory.max").write_text(f"{size * available}\n")
    (folder / "memory.current").write_text("0\n")
    (folder / "memory.stat").write_text("inactive_file 0\n")
    return folder


def prepare(control_groups: Path | None = None, fp8: bool = False, fault: str = "") -> None:
    """Make a rank a small machine, one with the storage of a GPU, or one that fails."""
    evaluator.record_evaluation = record_rising
    if control_groups is not None:
        host_memory.CGROUPS = control_groups
    if fp8:
        linear.new_packed_weight = fp8_weight
    if fault:
        torch.nn.modules.module.register_module_forward_pre_hook(partial(fail, fault, count(1)))


def record_rising(progress: Progress, valid_loss: float) -> bool:
    """Record a loss that rises with the steps, so that the step evaluated first is exported."""
    return record_evaluation(progress, valid_loss + progress.step)


def fail(fault: str, calls: "count[int]", module: torch.nn.Module, _: Any) -> None:
    """Fail in the third layer of the second pass of a training."""
    attention = getattr(module, "self_attn", None)
    if isinstance(getattr(attention, "q_proj", None), linear.MeldedLinear) and next(calls) == 8:
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the third layer fails")


def train(
    config: Path,
    output: Path,
    size: int,
    prepared: Callable[[], None],
) -> list[TrainerMessage]:
    with ranks([config] * size, output, [prepared] * size) as (first, others):
        codes = [first.finish(), *(other.wait(60) for other in others)]
        log = output.parent / f"{output.name}.log"
        assert codes == [ExitCode.DONE] * size, log.read_text()
    return list(first.messages)


def figures(messages: list[TrainerMessage]) -> list[Any]:
    """Everything that a step, an evaluation, a sample or the merge says of the model."""
    steps = [
        (step.step, step.train_loss, step.grad_norm, step.codes_changed)
        for step in of(StepMetrics, messages)
    ]
    kinds = (UntouchedEvaluated, Evaluated, Sampled, Merged)
    return [*steps, *(message for kind in kinds for message in of(kind, messages))]


def says_sharded(messages: list[TrainerMessage]) -> bool:
    return any("keeps a part of the weights" in log.text for log in of(Log, messages))


def test_a_sharded_training_has_the_bits_of_one_that_is_whole(
    deep_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """By two, and by four that continue from a checkpoint of two, as one does."""
    config = write_config(tmp_path / "config.json", deep_folder, train_file, STOPS_EARLY)
    by_two, by_four = (
        partial(prepare, limits(tmp_path / f"limits {size}", deep_folder, STOPS_EARLY, size))
        for size in (2, 4)
    )
    runs = {
        "two whole": train(config, tmp_path / "two whole", 2, prepare),
        "two": train(config, tmp_path / "two", 2, by_two),
    }
    assert len(of(UntouchedEvaluated, runs["two"])) == 1
    assert of(Finished, runs["two"])[0].best_step == BEST_STEP < NUM_STEPS
    for name, size, prepared in (
        ("four whole", 4, prepare),
        ("four", 4, by_four),
        ("one", 1, prepare),
    ):
        folder = f"checkpoints/{BEST_STEP}"
        shutil.copytree(tmp_path / "two" / folder, tmp_path / name / folder)
        runs[name] = train(config, tmp_path / name, size, prepared)
        assert of(Started, runs[name])[0].start_step == BEST_STEP
    assert [name for name, messages in runs.items() if says_sharded(messages)] == ["two", "four"]
    for name in ("two", "four"):
        assert figures(runs[name]) == figures(runs[f"{name} whole"])
        for folder in ("model", "checkpoints"):
            whole = bytes_of(tmp_path / f"{name} whole" / folder)
            assert bytes_of(tmp_path / name / folder) == whole


def test_codes_of_a_gpu_are_sharded_with_the_same_bits(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """In fused layers, activations computed again, of three ranks of which one has no records."""
    recipe = RECIPE | {"max_steps": 2, "batch_size": 2, "activation_checkpointing": True}
    deep = resize(tiny_folder, tmp_path / "deep", 5)
    config = write_config(tmp_path / "config.json", deep, train_file, recipe)
    group = limits(tmp_path / "limits", deep, recipe, 3)
    whole = train(config, tmp_path / "whole", 3, partial(prepare, fp8=True))
    sharded = train(config, tmp_path / "sharded", 3, partial(prepare, group, fp8=True))
    assert says_sharded(sharded)
    assert figures(sharded) == figures(whole)
    assert bytes_of(tmp_path / "sharded/model") == bytes_of(tmp_path / "whole/model")


@pytest.mark.parametrize("fault", ["raise", "kill"])
def test_a_rank_that_fails_while_others_gather_ends_all(
    fault: str, deep_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    """The second of two, amid a pass; the first learns of its error, or that it is lost."""
    config = write_config(tmp_path / "config.json", deep_folder, train_file, RECIPE)
    group = limits(tmp_path / "limits", deep_folder, RECIPE, 2)
    prepared = [partial(prepare, group), partial(prepare, group, fault=fault)]
    with ranks([config] * 2, tmp_path / "out", prepared) as (first, (second,)):
        codes = first.finish(), second.wait(60)
    assert says_sharded(first.messages)
    (failed,) = of(Failed, first.messages)
    assert codes[0] == ExitCode.INTERNAL
    if fault == "kill":
        assert codes[1] == -signal.SIGKILL
        assert failed.message == "process 0 of 2 has lost another process of this training"
    else:
        assert codes[1] == ExitCode.INTERNAL
        assert failed.message.startswith("unexpected ValueError")
