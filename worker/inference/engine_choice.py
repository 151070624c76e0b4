"""The choice of the engine that loads a model on this machine, and the memory that it takes."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.base.settings import Settings
from app.models import Model
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import UserError
from falqon_core.contract.formats import (
    GGUF_FORMATS,
    MAX_SHARED_RANK,
    FormatUnavailable,
    check_format,
)
from falqon_core.estimate.host_memory import available_host_bytes
from worker.inference import llama_cpp, vllm
from worker.inference.memory import (
    available_gpu_bytes,
    cache_bytes,
    context_of,
    limit_bytes,
    needed_bytes,
)
from worker.inference.template_trial import try_templates
from worker.machine.engines import find_vllm
from worker.machine.subprocesses import ToolFailed
from worker.models.model_cache import GGUF, GGUF_ADAPTER, BaseMissing, ModelCache
from worker.operations.handler import PermanentError

VLLM_PROCESSES_BYTES = 2 * 2**30  # Its processes and the device's libraries, before any weight.
VLLM_CONTEXTS = 4  # Contexts whose keys and values it keeps.
DEFAULT_RANK = Recipe().rank


@dataclass(frozen=True, slots=True)
class SharedBase:
    """A base model that one program answers with, as itself and with adapters of up to a rank."""

    model_id: str
    folder: Path
    max_rank: int


@dataclass(frozen=True, slots=True)
class Loading:
    """`command`: module and arguments of the engine's program. `available_bytes`: of the memory
    that it loads the model into. `shared`: a file of `shared_bytes` whose pages engines that map it
    have in common. `base`: where a program for many answers; `adapter`: PEFT's folder, to be put on
    it.
    """

    command: list[str]
    max_answers: int  # Concurrent answers.
    needed_bytes: int
    available_bytes: Callable[[], int]
    shared: Path | None = None
    shared_bytes: int = 0
    base: SharedBase | None = None
    adapter: Path | None = None
    adapter_bytes: int = 0


def prepare(
    model: Model, cache: ModelCache, settings: Settings, *, has_adapters: bool = False
) -> Loading:
    """Bring the weights here: for vLLM on a GPU, for llama.cpp on a CPU, and there for vLLM what
    llama.cpp cannot hold exactly. `has_adapters`: it is a base that adapters belong to.

    Raises `FormatUnavailable` and `ToolFailed` where vLLM is not installed, either, `BaseMissing`
    for an adapter without its base, and `PermanentError` for a chat template that no engine is
    given.
    """
    has_vllm = find_vllm() is not None and model.format not in GGUF_FORMATS
    if has_vllm and available_gpu_bytes() is not None:
        if model.format == "gguf_lora":
            return _for_vllm_with_adapter(model, cache)
        loading = _for_vllm(model, _tried(model.id, cache), _free_gpu_bytes)
        if has_adapters:
            base = SharedBase(model.id, cache.model(model.id), DEFAULT_RANK)
            return _with_adapters(loading, base, 0)
        return loading
    try:
        return _for_llama_cpp(model, cache, settings)
    except (FormatUnavailable, ToolFailed):
        if not has_vllm or model.format == "gguf_lora":
            raise
    # On a processor that does not multiply FP8, vLLM takes seconds a token.
    is_quantized = "quantization_config" in model.config
    folder = _tried(model.id, cache)
    if is_quantized:
        folder = cache.bf16(model.id)
    return _for_vllm(model, folder, available_host_bytes)


def least_bytes(model: Model, gpu_bytes: Callable[[], int | None]) -> tuple[int, int] | None:
    """Return the bytes that an engine on this machine needs for a model at least, as far as its row
    says, and those that are free for it; None for a model that is not understood. `gpu_bytes`:
    `available_gpu_bytes`, or what it has just returned.
    """
    is_for_vllm = find_vllm() is not None and model.format not in (*GGUF_FORMATS, "gguf_lora")
    free = gpu_bytes() if is_for_vllm else None
    try:
        num_contexts = llama_cpp.PARALLEL_ANSWERS if free is None else VLLM_CONTEXTS
        needed = model.bytes + num_contexts * cache_bytes(model.config)
    except UserError:
        return None
    if free is None:
        return needed, available_host_bytes()
    return needed + VLLM_PROCESSES_BYTES, free


def _for_llama_cpp(model: Model, cache: ModelCache, settings: Settings) -> Loading:
    check_format("gguf", Recipe(), model.config)
    adapter = None
    weights_id = model.id
    if model.format == "gguf_lora":
        adapter = cache.model(model.id) / GGUF_ADAPTER
        weights_id = _base_of(model, cache)
    _tried(weights_id, cache)
    gguf = cache.gguf(weights_id)
    command = ["worker.inference.llama_cpp", str(gguf)]
    if adapter is not None:
        command += ["--adapter", str(adapter)]
    command += ["--context", str(context_of(model.config))]
    command += ["--threads", str(settings.num_threads or os.cpu_count() or 1)]
    max_answers = llama_cpp.PARALLEL_ANSWERS
    mapped_bytes = gguf.stat().st_size
    weights_bytes = mapped_bytes + (adapter.stat().st_size if adapter else 0)
    needed = needed_bytes(weights_bytes, model.config, max_answers)
    command += ["--memory-bytes", str(limit_bytes(needed))]
    return Loading(command, max_answers, needed, available_host_bytes, gguf, mapped_bytes)


def _base_of(model: Model, cache: ModelCache) -> str:
    """Return the model that an adapter belongs on."""
    base_id = model.base_model_id or ""
    if not cache.has_files(base_id):
        raise BaseMissing(f"The model '{base_id}' has been deleted.")
    return base_id


def _tried(model_id: str, cache: ModelCache) -> Path:
    """Return the folder of a model whose chat templates an engine may have."""
    folder = cache.model(model_id)
    gguf = folder / GGUF
    try_templates(gguf if gguf.is_file() else folder, cache.check)
    return folder


def _for_vllm(model: Model, folder: Path, free_bytes: Callable[[], int]) -> Loading:
    weights_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    command = ["worker.inference.vllm", str(folder)]
    command += ["--context", str(context_of(model.config))]
    command += ["--cache-bytes", str(VLLM_CONTEXTS * cache_bytes(model.config))]
    if free_bytes is available_host_bytes:
        command.append("--on-cpu")
    needed = needed_bytes(weights_bytes, model.config, VLLM_CONTEXTS) + VLLM_PROCESSES_BYTES
    return Loading(command, vllm.PARALLEL_ANSWERS, needed, free_bytes)


def _for_vllm_with_adapter(model: Model, cache: ModelCache) -> Loading:
    base_id = _base_of(model, cache)
    folder = _tried(base_id, cache)
    try:
        adapter = cache.peft_adapter(model.id, folder)
    except ToolFailed as error:
        raise PermanentError(
            "adapter_not_loadable",
            f"The adapter is damaged, or does not belong on its base: {error.failure.message}",
        ) from None
    rank = json.loads((adapter / "adapter_config.json").read_bytes())["r"]
    if rank > MAX_SHARED_RANK:
        raise PermanentError(
            "adapter_rank_too_high",
            f"The adapter has rank {rank}; vLLM takes {MAX_SHARED_RANK} at most. Ask the merged "
            "model.",
        )
    max_rank = next(each for each in vllm.ADAPTER_RANKS if each >= max(rank, DEFAULT_RANK))
    num_bytes = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))
    loading = _for_vllm(model, folder, _free_gpu_bytes)
    loading = _with_adapters(loading, SharedBase(base_id, folder, max_rank), num_bytes // rank)
    return replace(loading, adapter=adapter, adapter_bytes=num_bytes)


def _with_adapters(loading: Loading, base: SharedBase, bytes_per_rank: int) -> Loading:
    """Have vLLM keep room for adapters, in half of the bytes of their files."""
    command = [*loading.command, "--adapter-rank", str(base.max_rank)]
    slots_bytes = vllm.STEP_ADAPTERS * base.max_rank * bytes_per_rank // 2
    needed = loading.needed_bytes + slots_bytes
    return replace(loading, command=command, base=base, needed_bytes=needed)


def _free_gpu_bytes() -> int:
    return available_gpu_bytes() or 0
