"""The merged checkpoint as it was trained: compressed-tensors, readable by transformers and vLLM as
it stands.

In FP8 (`float-quantized`) every melded linear becomes `weight` F8_E4M3 [O, I] (codes) and
`weight_scale` [O, 1] with weight = codes * scale; A is not part of it, since the codes hold the
trained fold. Activations are quantized per token while serving. Everything else is bf16, tied
embeddings are written once, and each linear left unquantized is named in `ignore`. Scales are one
per output row because vLLM merges q, k, v and gate, up into one matrix: rows keep their scales
there, while per-tensor scales would be rounded again. Scales are stored in fp32, as trained: vLLM
and `CompressedTensorsConfig(dequantize=True)` compute with them as they are; transformers'
compressed modules round them to the model's dtype, so its bf16 default is exact for scales that
bf16 can hold. Embeddings, lm_head and the key-value cache are not FP8. Weights that were trained in
blocks have the tensors of `block_forms` instead, and activations stay as they are.
"""

import json
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.block_weights import Weights
from falqon_core.contract.model_folder import EXPERT_KEYS
from falqon_core.contract.quantization_config import quantization_config
from falqon_core.estimate.attention_layers import GEMMA4
from falqon_core.export.block_forms import BLOCK_FORMS
from falqon_core.export.experts import (
    SCALE_SUFFIX,
    expert_codes,
    expert_tensors,
    unquantized_names,
)
from falqon_core.files import staged_folder, write_json
from falqon_core.importers.published_names import published


@runtime_checkable
class QuantizedLinear(Protocol):
    """A linear that holds codes, and perhaps a `bias`, float [O], or a `block_quantizer` with the
    name and the unit of its form. Those are not named here: since Python 3.12 `isinstance`
    overlooks what a module keeps among its parameters, and with it the whole linear.
    """

    def quantized_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """qdata float8_e4m3fn [O, I] and scale float32 [O, 1], weight = codes * scale; or codes and
        scales of blocks (block_forms.py).
        """
        ...


def quantized_linears(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Return the linears of a model that hold codes, by name."""
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, QuantizedLinear)}


def weights_of_linears(linears: Iterable[QuantizedLinear]) -> Weights:
    """Return the form that the linears of one model share."""
    quantizers = [getattr(linear, "block_quantizer", None) for linear in linears]
    names: set[Weights] = {quantizer.name if quantizer else "fp8" for quantizer in quantizers}
    assert len(names) <= 1, "a training has one form of weights"
    return names.pop() if names else "fp8"


def weight_tensors(linear: QuantizedLinear) -> dict[str, torch.Tensor]:
    """Return the tensors of a linear's weight by their last names, on the CPU."""
    codes, scale = linear.quantized_weight()
    quantizer = getattr(linear, "block_quantizer", None)
    if quantizer is not None:
        return BLOCK_FORMS[quantizer.name].pack(codes, scale, quantizer.unit)
    tensors = {"weight": codes, "weight_scale": scale}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def export_trained(
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
    ] + unquantized_names(model)
    with staged_folder(folder) as staging:
        tensors = dict(exported_tensors(model))
        save_torch_state_dict(tensors, staging, max_shard_size=max_shard_size)
        weights = weights_of_linears(quantized.values())
        write_json(staging / "config.json", _config(model, unquantized, weights))
        if model.generation_config is not None:
            model.generation_config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def exported_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield everything to write with its name, on the CPU."""
    quantized = quantized_linears(model)
    yield from plain_tensors(model, quantized).items()
    for name, module in quantized.items():
        for last, value in weight_tensors(module).items():
            yield f"{name}.{last}", value
        if (bias := getattr(module, "bias", None)) is not None:
            yield f"{name}.bias", plain(bias)
    for name, value in expert_tensors(model).items():
        # One expert's weights may be a part of all experts' memory, which no file may hold.
        yield name, value.cpu().clone(memory_format=torch.contiguous_format)


def plain_tensors(model: PreTrainedModel, without: Container[str] = ()) -> dict[str, torch.Tensor]:
    """Return a model's tensors beside experts and those of the modules `without`, bf16 on the CPU,
    by name.
    """
    experts = {name + suffix for name in expert_codes(model) for suffix in ("", SCALE_SUFFIX)}
    tensors: dict[str, torch.Tensor] = {}
    written: set[tuple[int, torch.Size]] = set()
    for name, value in model.state_dict().items():
        if name in experts or name.rpartition(".")[0] in without:
            continue
        identity = value.data_ptr(), value.shape
        if identity not in written:  # A tied tensor is stored under its first name.
            written.add(identity)
            tensors[name] = plain(value, is_wide(model, name))
    return published(model, tensors) if experts else tensors


def plain(value: torch.Tensor, wide: bool = False) -> torch.Tensor:
    """Return a tensor as it is stored: bf16, or as it is where that is `wide`, contiguous, on the
    CPU; integers keep their type.
    """
    value = value.detach().cpu()
    narrows = value.is_floating_point() and not wide
    return (value.to(torch.bfloat16) if narrows else value).contiguous()


def is_wide(model: PreTrainedModel, name: str) -> bool:
    """Check for a tensor that transformers keeps in fp32 in every dtype: the biases that choose
    experts lie closer together than bf16 tells apart.
    """
    return any(part in name for part in model._keep_in_fp32_modules_strict or ())


def _config(model: PreTrainedModel, unquantized: list[str], weights: Weights) -> dict[str, Any]:
    config = {
        key: value
        for key, value in json.loads(model.config.to_json_string()).items()
        if not key.startswith("_")
    }
    config.pop("dtype", None)
    # Published files count the experts under the name that other versions of transformers read.
    for name, own in type(model.config).attribute_map.items():
        if name in EXPERT_KEYS and own in config:
            config[name] = config[own]
    if config["model_type"] == GEMMA4:
        # Other versions of transformers read the sizes of all layers without a window so; the last
        # layer is one.
        last = config.get("per_layer_config", {}).get(str(config["num_hidden_layers"] - 1), {})
        config["global_head_dim"] = last.get("head_dim", config["head_dim"])
        config["num_global_key_value_heads"] = last.get("num_key_value_heads")
    return config | {
        "architectures": [type(model).__name__],
        "torch_dtype": "bfloat16",
        "quantization_config": quantization_config(unquantized, weights),
    }
