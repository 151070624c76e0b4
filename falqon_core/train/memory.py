"""Free memory, the fit of a training to it, and the errors where it is not enough.

The estimate of `estimate.memory` decides once, before the model is loaded, into how many tokens a
step is cut and whether activations are computed again. On a CPU free memory is the part that this
process may still take (`estimate.host_memory`); on a GPU it is the driver's figure. Memory that
others take later is not foreseen; then an allocation fails and says so, or the kernel ends the
process.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import OutOfMemory, is_allocation_failure
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.host_memory import available_host_bytes
from falqon_core.estimate.memory import (
    MemoryPlan,
    largest_fitting,
    largest_microbatch_tokens,
    placements,
    plan_memory,
    training_memory_bytes,
    untouched_memory_bytes,
    usable_bytes,
)

T = TypeVar("T")
GIB = 2**30


def available_bytes(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_host_bytes()


def fit_to_memory(
    recipe: Recipe,
    dimensions: ModelDimensions,
    device: torch.device,
    available: int,
    num_processes: int = 1,
) -> MemoryPlan:
    """Decide `microbatch_tokens`, `activation_checkpointing` and `base_copy` of `recipe`, and the
    placement, for `available` bytes of each process.

    Raises `OutOfMemory`, naming the largest configuration that fits, when the estimate says that
    this one does not.
    """
    is_cpu = device.type == "cpu"
    usable = usable_bytes(available)
    if plan := plan_memory(dimensions, recipe, usable, is_cpu, num_processes):
        return plan
    smallest = recipe.model_copy(
        update={"activation_checkpointing": recipe.activation_checkpointing is not False}
    )
    most_saving = placements(smallest, is_cpu, num_processes)[-1]
    needed = training_memory_bytes(dimensions, smallest, is_cpu, most_saving)
    short = (
        f"the training needs about {needed / GIB:.2f} GiB, and {usable / GIB:.2f} GiB can be used"
    )
    if largest := largest_fitting(dimensions, recipe, usable, is_cpu, num_processes):
        raise OutOfMemory(
            f"{short}; the largest configuration that fits is {_describe_recipe(largest)}"
        )
    parameters = dimensions.num_parameters * usable / needed / 1e6
    raise OutOfMemory(
        f"{short}; no configuration of this model fits, one of about {parameters:.0f} million "
        "parameters may"
    )


def fits_untouched(recipe: Recipe, dimensions: ModelDimensions, device: torch.device) -> bool:
    """Check that the bf16 model fits whole on `device` until it is quantized."""
    if device.type == "cpu":
        return True
    return untouched_memory_bytes(dimensions, recipe) <= usable_bytes(available_bytes(device))


def check_host_memory(base: int, activations: int, available: int) -> None:
    """Raise `OutOfMemory` unless a base and offloaded activations of so many bytes fit into
    `available` bytes of the host.
    """
    usable = usable_bytes(available)
    if base + activations <= usable:
        return
    can_be_used = f"and {usable / GIB:.2f} GiB can be used"
    if base > usable or not activations:
        raise OutOfMemory(
            f"base_copy: a base that does not lie on the device needs {base / GIB:.2f} GiB of "
            f"host memory, {can_be_used}; 'none' needs none of it"
        )
    raise OutOfMemory(
        f"max_seq_length: activations that do not fit on the device need {activations / GIB:.2f} "
        f"GiB of host memory beside {base / GIB:.2f} GiB of the base, {can_be_used}; shorter "
        "records need less"
    )


class OutOfMemoryGuard:
    """A wrapper that turns a failed allocation in the middle of a training into an error with
    advice.
    """

    def __init__(self, plan: MemoryPlan, dimensions: ModelDimensions, device: torch.device) -> None:
        self._plan = plan
        self._dimensions = dimensions
        self._device = device

    def __call__(self, work: Callable[[], T]) -> T:
        """Run `work`. Raises `OutOfMemory` where memory runs out, with the configuration that was
        tried and the largest `microbatch_tokens` that would fit.
        """
        try:
            return work()
        except Exception as error:
            if not is_allocation_failure(error):
                raise
        # Out here the frames of `work` and their tensors are gone, so free memory can be counted.
        raise OutOfMemory(self._describe())

    def _describe(self) -> str:
        is_cpu = self._device.type == "cpu"
        tried = self._plan.recipe
        placement = self._plan.placement
        if not is_cpu:
            torch.cuda.empty_cache()
        everything = training_memory_bytes(self._dimensions, tried, is_cpu, placement)
        without_tokens = tried.model_copy(update={"microbatch_tokens": 0})
        fixed = training_memory_bytes(self._dimensions, without_tokens, is_cpu, placement)
        possible = min(fixed + usable_bytes(available_bytes(self._device)), everything - 1)
        advice = largest_microbatch_tokens(self._dimensions, tried, possible, is_cpu, placement)
        if advice is not None:
            return (
                f"memory ran out with {_describe_recipe(tried)}; "
                f"the largest microbatch_tokens that would fit is {advice}"
            )
        smaller = largest_fitting(self._dimensions, tried, possible, is_cpu, placement.num_shards)
        return f"memory ran out with {_describe_recipe(tried)}; " + (
            f"the largest configuration that would fit is {_describe_recipe(smaller)}"
            if smaller
            else "no configuration of this model would fit"
        )


def _describe_recipe(recipe: Recipe) -> str:
    checkpointing = "with" if recipe.activation_checkpointing else "without"
    base = f" and base_copy {recipe.base_copy}" if recipe.base_copy == "host" else ""
    return (
        f"rank {recipe.rank}, max_seq_length {recipe.max_seq_length}, microbatch_tokens "
        f"{recipe.microbatch_tokens} "
        f"{checkpointing} activation_checkpointing{base}"
    )
