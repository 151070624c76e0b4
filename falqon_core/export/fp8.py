"""The merged FP8 checkpoint: compressed-tensors `float-quantized`, readable by transformers and
vLLM as it stands.

Every melded linear becomes `weight` F8_E4M3 [O, I] (codes) and `weight_scale` [O, 1] with weight =
codes * scale; A is not part of it, since the codes hold the trained fold. Activations are quantized
per token while serving. Everything else is bf16, tied embeddings are written once, and each linear
left unquantized is named in `ignore`. Scales are one per output row because vLLM merges q, k, v and
gate, up into one matrix: rows keep their scales there, while per-tensor scales would be rounded
again. Scales are stored in fp32, as trained: vLLM and `CompressedTensorsConfig(dequantize=True)`
compute with them as they are; transformers' compressed modules round them to the model's dtype, so
its bf16 default is exact for scales that bf16 can hold. Embeddings, lm_head and the key-value cache
are not FP8.
"""

import json
from collections.abc import Container
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.files import staged_folder, write_json


@runtime_checkable
class QuantizedLinear(Protocol):
    """A linear that holds FP8 codes, and perhaps a `bias`, float [O]. That is not named here: since
    Python 3.12 `isinstance` overlooks what a module keeps among its parameters, and with it the
    whole linear.
    """

    def quantized_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """qdata float8_e4m3fn [O, I] and scale float32 [O, 1]; weight = codes * scale."""
        ...


def quantized_linears(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the linears of a model that hold FP8 codes, by name."""
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, QuantizedLinear)}


def export_fp8(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_shard_size: str = "5GB",
) -> None:
    """Write the checkpoint folder, whole or not at all; an existing one is replaced. Larger
    checkpoints get several files and an index.
    """
    quantized = quantized_linears(model)
    unquantized = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in quantized
    ]
    with staged_folder(folder) as staging:
        save_torch_state_dict(_tensors(model, quantized), staging, max_shard_size=max_shard_size)
        write_json(staging / "config.json", _config(model, unquantized))
        if model.generation_config is not None:
            model.generation_config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def _tensors(
    model: PreTrainedModel, quantized: dict[str, QuantizedLinear]
) -> dict[str, torch.Tensor]:
    """Return everything to write, on the CPU."""
    tensors = plain_tensors(model, quantized)
    for name, module in quantized.items():
        qdata, scale = module.quantized_weight()
        tensors[f"{name}.weight"] = qdata.detach().cpu().contiguous()
        tensors[f"{name}.weight_scale"] = scale.detach().cpu().contiguous()
        if (bias := getattr(module, "bias", None)) is not None:
            tensors[f"{name}.bias"] = plain(bias)
    return tensors


def plain_tensors(model: PreTrainedModel, without: Container[str] = ()) -> dict[str, torch.Tensor]:
    """Return a model's tensors beside those of the modules `without`, bf16 on the CPU, by name."""
    tensors: dict[str, torch.Tensor] = {}
    written: set[tuple[int, torch.Size]] = set()
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] in without:
            continue
        identity = value.data_ptr(), value.shape
        if identity not in written:  # A tied tensor is stored under its first name.
            written.add(identity)
            tensors[name] = plain(value)
    return tensors


def plain(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor as it is stored: bf16, contiguous, on the CPU; integers keep their type."""
    value = value.detach().cpu()
    return (value.to(torch.bfloat16) if value.is_floating_point() else value).contiguous()


def _config(model: PreTrainedModel, unquantized: list[str]) -> dict[str, Any]:
    config = {
        key: value
        for key, value in json.loads(model.config.to_json_string()).items()
        if not key.startswith("_")
    }
    config.pop("dtype", None)
    return config | {
        "architectures": [type(model).__name__],
        "torch_dtype": "bfloat16",
        "quantization_config": quantization_config(unquantized),
    }


def quantization_config(ignore: list[str]) -> dict[str, Any]:
    """compressed-tensors' description of this format; `ignore` names the linears left in bf16."""
    common: dict[str, Any] = {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "group_size": None,
        "block_structure": None,
        "actorder": None,
    }
    weights = common | {
        "strategy": "channel",
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    activations = common | {
        "strategy": "token",
        "dynamic": True,
        "observer": None,
        "observer_kwargs": {},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": ignore,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": activations,
                "output_activations": None,
            }
        },
    }
