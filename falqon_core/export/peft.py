"""PEFT's folder of an adapter: its configuration, and one for llama.cpp put into that form. Nothing
here imports torch: an engine waits for it.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, Keys, dequantize
from safetensors.numpy import save_file

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import read_config
from falqon_core.files import staged_folder, write_json
from falqon_core.importers.gguf_header import check_gguf
from falqon_core.importers.gguf_names import name_of, rotary_halves

PEFT_PREFIX = "base_model.model."
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
LAYER = re.compile(r"\.layers\.(\d+)\.")
MLP_LINEAR = re.compile(LAYER.pattern + r"mlp\.(shared_experts?\.)?(?:gate|up|down)_proj$")
PAIRED_ARCHITECTURES = ("llama", "mistral3")  # Those whose rotary pairs are interleaved.
LETTERS = {".lora_a": "A", ".lora_b": "B"}


def convert_gguf_adapter(gguf: Path, base: Path, output: Path, base_model: str) -> None:
    """Write an adapter for llama.cpp as PEFT's folder `output`, bit for bit, whole or not at all;
    `base` is the folder of its base model. Raises `ModelError` for a file that is damaged or of
    another base.
    """
    alpha, factors = _read(gguf, read_config(base))
    linears = sorted({name.rpartition(".")[0] for name in factors})
    ranks = {len(array) for name, array in factors.items() if name.endswith(".lora_a")}
    if len(factors) != 2 * len(linears) or len(ranks) != 1:
        raise ModelError(f"{gguf.name} is damaged: factors are missing, or of several ranks")
    tensors = {
        f"{PEFT_PREFIX}{name[:-7]}.lora_{LETTERS[name[-7:]]}.weight": array
        for name, array in factors.items()
    }
    with staged_folder(output) as staging:
        save_file(tensors, staging / PEFT_WEIGHTS, metadata={"format": "pt"})
        write_peft_config(staging, base_model, ranks.pop(), alpha, linears)


def _read(gguf: Path, base_config: dict[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
    """Return alpha, and A [r, I] and B [O, r], fp32, as `<linear>.lora_a` and `.lora_b`."""
    try:
        check_gguf(gguf)
        reader = GGUFReader(gguf)
        values_of: list[Any] = [
            field.contents() if (field := reader.get_field(key)) else None
            for key in (Keys.Adapter.LORA_ALPHA, Keys.General.ARCHITECTURE)
        ]
        alpha, architecture = float(values_of[0]), values_of[1]
    except (OSError, ValueError, TypeError, IndexError, KeyError) as error:
        raise ModelError(f"{gguf.name} cannot be read as an adapter: {error}") from None
    heads = base_config["num_attention_heads"]
    heads_of = {".q_proj": heads, ".k_proj": base_config.get("num_key_value_heads") or heads}
    factors = {}
    for tensor in reader.tensors:
        end = tensor.name[-7:]
        if end not in LETTERS:
            raise ModelError(f"{gguf.name} has a tensor {tensor.name!r} that no adapter has")
        linear = name_of(tensor.name[:-7]).removesuffix(".weight")
        shape = tuple(int(size) for size in reversed(tensor.shape))
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        kind = f".{linear.rpartition('.')[2]}"
        if architecture in PAIRED_ARCHITECTURES and end == ".lora_b" and kind in heads_of:
            values = rotary_halves(values, heads_of[kind])
        factors[linear + end] = np.ascontiguousarray(values)
    return alpha, factors


def write_peft_config(
    folder: Path, base_model: str, rank: int, alpha: float, names: list[str]
) -> None:
    """`names`: the full ones of the linears that the adapter is for."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": alpha,
        **_targets(names),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(folder / PEFT_CONFIG, config)


def _targets(names: list[str]) -> dict[str, list[str]]:
    """Return where the adapter belongs, as PEFT reads it.

    In a mixture PEFT takes the names of gate, up and down for those of the experts, which this
    adapter leaves alone; there the weights of other such linears are named.
    """
    if not _is_mixture(names):
        return {"target_modules": sorted({name.rpartition(".")[2] for name in names})}
    modules = {name.rpartition(".")[2] for name in names if not MLP_LINEAR.search(name)}
    weights = {".".join(name.split(".")[-2:]) for name in names if MLP_LINEAR.search(name)}
    return {
        "target_modules": sorted(modules),
        "target_parameters": sorted(f"{name}.weight" for name in weights),
    }


def _is_mixture(names: list[str]) -> bool:
    """Check that an MLP stands beside experts, or in some layers alone."""
    mlps = [match for name in names if (match := MLP_LINEAR.search(name))]
    layers = {match[1] for name in names if (match := LAYER.search(name))}
    is_everywhere = {match[1] for match in mlps} == layers
    return any(match[2] for match in mlps) or (bool(mlps) and not is_everywhere)
