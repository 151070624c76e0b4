"""Memory that a loaded model takes, and memory that is free on a GPU."""

import os
import subprocess
from typing import Any

from falqon_core.estimate.dimensions import ModelDimensions

MAX_CONTEXT = 8_192  # Tokens of one answer; their keys and values stay in memory.
CACHE_BYTES = 2  # Bytes of a number of the keys and values.
MARGIN = 1.1
# Beyond what a model needs: an engine's own memory, one computation, questions, and schemas within
# their limits. Each thread may take a stack and an arena.
ENGINE_BYTES = 3 * 2**29
ENGINE_BYTES_PER_CORE = 2**26
SMI_SECONDS = 10


def context_of(config: dict[str, Any]) -> int:
    return min(ModelDimensions.from_config(config).max_position_embeddings, MAX_CONTEXT)


def cache_bytes(config: dict[str, Any]) -> int:
    """Return the bytes of the keys and values of one whole context."""
    dimensions = ModelDimensions.from_config(config)
    num_values = 2 * sum(kind.number * kind.num_keys for kind in dimensions.layer_kinds)
    return CACHE_BYTES * num_values * context_of(config)


def needed_bytes(weights_bytes: int, config: dict[str, Any], num_contexts: int) -> int:
    return int(MARGIN * (weights_bytes + num_contexts * cache_bytes(config)))


def limit_bytes(needed_bytes: int) -> int:
    """Return the limit of the memory of an engine's process, mapped files apart."""
    return needed_bytes + ENGINE_BYTES + ENGINE_BYTES_PER_CORE * (os.cpu_count() or 1)


def available_gpu_bytes() -> int | None:
    """Return the free bytes of the GPU that an engine would load into; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command += ["--id", visible.partition(",")[0]]
    try:
        answer = subprocess.run(command, capture_output=True, check=True, timeout=SMI_SECONDS)
        return int(answer.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
