"""Size of a job's output, and whether a disk could ever hold it. Free of the web framework: workers
check before they train.
"""

import shutil
from pathlib import Path

from app.models.base import JsonObject
from falqon_core.contract.block_weights import bits_of
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ModelError
from falqon_core.estimate.adapter import adapter_size
from falqon_core.estimate.dimensions import ModelDimensions

DISK_MARGIN = 1.1
TOO_LARGE = "job_too_large"
UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB", "EB")


def expected_bytes(
    config: JsonObject, recipe: Recipe, largest_checkpoint: int | None = None
) -> int:
    """Return the size of the model and of the checkpoints that are on the disk at one time."""
    try:
        dimensions = ModelDimensions.from_config(config)
    except ModelError:  # the trainer reports it better
        return 0
    size = adapter_size(dimensions, recipe)
    # The trained weights with their two moments, in fp32; a frozen A in bf16.
    checkpoint = largest_checkpoint or 12 * size.trained + 2 * size.frozen_a
    # Weights in the form that trains, experts in e4m3, embeddings in bf16.
    weights = round(bits_of(recipe.weights) / 8 * dimensions.num_linear_parameters)
    weights += dimensions.num_expert_parameters
    result = weights + 2 * dimensions.num_embedding_parameters
    # Besides those that are kept, one is written, and one that was removed is uploaded.
    return (recipe.keep_checkpoints + 2) * checkpoint + result


def describe_shortage(folder: Path, num_bytes: int, whose: str) -> str | None:
    """Return a message with the missing bytes if it is too large for the whole disk of an existing
    folder; None if it fits.
    """
    needed = int(DISK_MARGIN * num_bytes)
    total = shutil.disk_usage(folder).total
    if needed <= total:
        return None
    return (
        f"about {readable(needed)} of disk are needed, "
        f"and the disk of {whose} has {readable(total)} in all"
    )


def readable(num_bytes: int) -> str:
    """Return a size in the largest unit that leaves at least one digit before the point."""
    exponent = min((len(str(num_bytes)) - 1) // 3, len(UNITS) - 1)
    return f"{num_bytes / 1000**exponent:.4g} {UNITS[exponent]}"
