"""Which engine loads a model on this machine, and what that takes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app.base.settings import Settings
from app.models import Model
from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import FormatUnavailable, check_format
from falqon_core.estimate.host_memory import available_host_bytes
from worker.inference import vllm
from worker.inference.memory import (
    available_gpu_bytes,
    cache_bytes,
    context_of,
    needed_bytes,
)
from worker.machine.subprocesses import ToolFailed
from worker.models.model_cache import ModelCache

VLLM_PROCESSES_BYTES = 2 * 2**30  # what they and the device's libraries take before any weight
VLLM_CONTEXTS = 4  # whose keys and values it keeps


class Loading(NamedTuple):
    """`command`: module and arguments of the engine's program. `available_bytes`: of the memory
    that it loads the model into.
    """

    command: list[str]
    needed_bytes: int
    available_bytes: Callable[[], int]


def prepare(model: Model, cache: ModelCache, settings: Settings) -> Loading:
    """Bring the weights here: for vLLM on a GPU, for llama.cpp on a CPU, and there for vLLM what
    llama.cpp cannot hold exactly.

    Raises `FormatUnavailable` and `ToolFailed` where vLLM is not installed, either.
    """
    has_vllm = vllm.find_command() is not None and model.format not in ("gguf", "q4_1")
    if has_vllm and available_gpu_bytes() is not None:
        return _for_vllm(model, cache.model(model.id), _free_on_gpu)
    try:
        return _for_llama_cpp(model, cache, settings)
    except (FormatUnavailable, ToolFailed):
        if not has_vllm:
            raise
    # Where no processor multiplies FP8, vLLM takes seconds for a token of the smallest model.
    is_quantized = "quantization_config" in model.config
    folder = cache.bf16(model.id) if is_quantized else cache.model(model.id)
    return _for_vllm(model, folder, available_host_bytes)


def _for_llama_cpp(model: Model, cache: ModelCache, settings: Settings) -> Loading:
    check_format("gguf", Recipe(), model.config)
    gguf = cache.gguf(model.id)
    command = ["worker.inference.llama_cpp", str(gguf)]
    command += ["--context", str(context_of(model.config))]
    command += ["--threads", str(settings.num_threads or os.cpu_count() or 1)]
    needed = needed_bytes(gguf.stat().st_size, model.config)
    return Loading(command, needed, available_host_bytes)


def _for_vllm(model: Model, folder: Path, free_bytes: Callable[[], int]) -> Loading:
    weights_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    command = ["worker.inference.vllm", str(folder)]
    command += ["--context", str(context_of(model.config))]
    command += ["--cache-bytes", str(VLLM_CONTEXTS * cache_bytes(model.config))]
    if free_bytes is available_host_bytes:
        command.append("--on-cpu")
    needed = needed_bytes(weights_bytes, model.config, VLLM_CONTEXTS) + VLLM_PROCESSES_BYTES
    return Loading(command, needed, free_bytes)


def _free_on_gpu() -> int:
    return available_gpu_bytes() or 0
