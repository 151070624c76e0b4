"""The settings that a continued training takes over from its checkpoint, the changes that it
refuses, and the best checkpoint where that is lost.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import CheckpointCorrupt, ConfigError
from falqon_core.contract.layout import checkpoint_folder, checkpoint_folders
from falqon_core.data.sequences import sequences_of
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import (
    MemoryPlan,
    host_base_bytes,
    placements,
    plan_memory,
    usable_bytes,
)
from falqon_core.estimate.placement import offloaded_bytes
from falqon_core.train.base_identity import is_other_base
from falqon_core.train.checkpoint import Progress, load_checkpoint
from falqon_core.train.data import Datasets
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.memory import available_bytes, check_host_memory, fit_to_memory


def recipe_for_data(recipe: Recipe, before: Progress | None) -> Recipe:
    """Decide the treatment of long texts: as `before` when continued. None in that one, which
    trainings have that began before texts were split, goes on cutting them.
    """
    if recipe.text_overlap_tokens is not None:
        return recipe
    overlap = before.recipe.text_overlap_tokens if before else 0
    return recipe.model_copy(update={"text_overlap_tokens": overlap})


def recipe_fit_to_memory(
    recipe: Recipe,
    before: Progress | None,
    dimensions: ModelDimensions,
    device: torch.device,
    group: ProcessGroup,
    warn: Callable[[str], None] = lambda _: None,
) -> MemoryPlan:
    """Decide the parts of `recipe` that depend on memory: now at a first start, as `before` when
    continued, because it changes the last bits. On another card than before, the passes of a step
    are planned again, and `warn` reports it. The placement changes no bits and is always decided
    now.

    The free memory of rank 0 decides for all; ranks are taken to share the memory of one machine.
    Raises `OutOfMemory` when the estimate says that nothing fits, or that the host's memory does
    not hold what a GPU's training is to keep there.
    """
    sharing = group.size if device.type == "cpu" else 1
    available = _available_to_rank0(device, group) // sharing
    if before is None:
        plan = fit_to_memory(recipe, dimensions, device, available, group.size)
    elif has_changed_card(before, device):
        plan = _planned_again(recipe, before, dimensions, device, available, group.size, warn)
    else:
        decided = ("microbatch_tokens", "activation_checkpointing", "base_copy")
        open_ones = [name for name in decided if getattr(recipe, name) is None]
        fixed = recipe.model_copy(update={name: getattr(before.recipe, name) for name in open_ones})
        plan = _placed(fixed, dimensions, device, available, group.size)
    if device.type != "cpu":
        base = group.size * host_base_bytes(dimensions, plan.recipe, plan.placement)
        activations = group.size * offloaded_bytes(dimensions, plan.recipe, plan.placement)
        if base + activations:
            of_host = _available_to_rank0(torch.device("cpu"), group)
            check_host_memory(base, activations, of_host)
    return plan


def _placed(
    recipe: Recipe,
    dimensions: ModelDimensions,
    device: torch.device,
    available: int,
    num_processes: int,
) -> MemoryPlan:
    """Return the plan of a decided recipe; it has trained before, so the one that needs the least
    is tried where none should fit.
    """
    is_cpu = device.type == "cpu"
    usable = usable_bytes(available)
    if plan := plan_memory(dimensions, recipe, usable, is_cpu, num_processes):
        return plan
    return MemoryPlan(recipe, placements(recipe, is_cpu, num_processes)[-1])


def device_name(device: torch.device) -> str:
    """Return the driver's name of the card, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_changed_card(before: Progress, device: torch.device) -> bool:
    return before.device_name is not None and before.device_name != device_name(device)


def _planned_again(
    recipe: Recipe,
    before: Progress,
    dimensions: ModelDimensions,
    device: torch.device,
    available: int,
    num_processes: int,
    warn: Callable[[str], None],
) -> MemoryPlan:
    """Decide the passes of a step for this card; the base stays where `before` has it, because its
    rounding is part of the training.
    """
    base_copy = before.recipe.base_copy if recipe.base_copy is None else recipe.base_copy
    kept = recipe.model_copy(update={"base_copy": base_copy})
    plan = fit_to_memory(kept, dimensions, device, available, num_processes)
    warn(
        f"continuing on {device_name(device)} after {before.device_name}: "
        f"{plan.recipe.microbatch_tokens} tokens a pass, {before.recipe.microbatch_tokens} before; "
        "results differ in the last bits"
    )
    return plan


def _available_to_rank0(device: torch.device, group: ProcessGroup) -> int:
    """Return its free bytes to all ranks."""
    (available,) = group.all_reduce_sum(available_bytes(device) if group.is_rank0 else 0)
    return int(available)


def _without_plan(progress: Progress, now: Progress) -> Recipe:
    """Return its recipe, with the passes of `now` if the card has changed."""
    if progress.device_name in (None, now.device_name):
        return progress.recipe
    planned = ("microbatch_tokens", "activation_checkpointing")
    return progress.recipe.model_copy(update={name: getattr(now.recipe, name) for name in planned})


def hash_data(data: Datasets, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of all sequences in their order; None where the date is part of them: a
    chat template that reads the clock renders them otherwise tomorrow.
    """
    datasets = data.by_name()
    has_chats = any(dataset.has_chats for dataset in datasets.values())
    if has_chats and "strftime_now" in str(tokenizer.chat_template):
        return None
    digest = hashlib.sha256()
    for name, dataset in datasets.items():
        digest.update(f"{name} {len(dataset.sequences)}\n".encode())
        for item in dataset.sequences:
            sequences = sequences_of(item)
            lengths = [len(sequences), *map(len, sequences)]
            digest.update(np.array(lengths, dtype=np.int64).tobytes())
            for sequence in sequences:
                digest.update(sequence.input_ids.tobytes())
                digest.update(sequence.loss_mask.tobytes())
    return digest.hexdigest()


def check_same_training(before: Progress, now: Progress, warn: Callable[[str], None]) -> None:
    """Raises `ConfigError` for another recipe, another base model or other data; warns when the
    bits will differ.
    """
    if _without_plan(before, now) != _without_plan(now, now):
        raise ConfigError(
            "the output folder holds a checkpoint of another recipe; choose another folder",
            "recipe",
        )
    if is_other_base(before, now.base_fingerprint):
        raise ConfigError(
            "the output folder holds a checkpoint of another base model; choose another folder",
            "model",
        )
    is_known = before.data_sha256 is not None and now.data_sha256 is not None
    is_other = is_known and before.data_sha256 != now.data_sha256
    if is_other or (before.num_records, before.num_tokens) != (now.num_records, now.num_tokens):
        raise ConfigError(
            "the output folder holds a checkpoint of other training data or validation data, or of "
            "the same in another order; choose another folder",
            "train_file",
        )
    if before.num_threads != now.num_threads:
        warn(
            f"continuing with {now.num_threads} threads after {before.num_threads}: "
            "results differ in the last bits"
        )
    if before.num_processes != now.num_processes:
        warn(
            f"continuing with {now.num_processes} processes after {before.num_processes}: "
            "results differ in the last bits"
        )


def replace_lost_best(output: Path, progress: Progress, warn: Callable[[str], None]) -> None:
    """Choose another best step where the checkpoint of `progress.best_step` is missing or corrupt,
    which could not be exported: that of the lowest validation loss among those that are left, or
    none, so that the next evaluation becomes it. A training that stopped early stays stopped.
    """
    lost = progress.best_step
    if lost in (None, progress.step) or _load_progress(checkpoint_folder(output, lost)):
        return
    left = filter(None, map(_load_progress, checkpoint_folders(output)))
    losses = {
        each.step: each.metrics["valid_loss"] for each in left if "valid_loss" in each.metrics
    }
    best = min(losses, key=lambda step: (losses[step], step), default=None)
    progress.best_step = best
    if best is None:
        progress.best_valid_loss = None
        progress.num_stale_evaluations = 0
        replacement = "the next evaluation chooses another"
    else:
        progress.best_valid_loss = losses[best]
        replacement = f"that of step {best} is the best of the others"
    warn(
        f"the checkpoint of step {lost} had the lowest validation loss and is missing or corrupt; "
        f"{replacement}"
    )


def _load_progress(folder: Path) -> Progress | None:
    """Return the progress of a checkpoint, or None where that is not whole."""
    try:
        return load_checkpoint(folder).progress
    except CheckpointCorrupt:
        return None
