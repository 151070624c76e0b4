"""Read the weights of a checkpoint that `export.trained` wrote, back as plain bf16, so that
training can continue from it, and those of a plain folder in the same form.

weight = codes * scale, computed in fp32 and rounded once, to bf16; weights in blocks are exact
there. No other quantized format is read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from falqon_core.contract.block_weights import Weights
from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import check_weights, read_config, weight_files
from falqon_core.contract.quantization_config import weights_of
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.export.block_forms import BLOCK_FORMS, PACKED, STORED
from falqon_core.export.gguf_experts import take_experts
from falqon_core.export.trained import is_wide
from falqon_core.importers.decoder import build_decoder
from falqon_core.importers.soundness import EXPERTS, check_tensors

SCALE_SUFFIX = "_scale"


def is_ours(config: dict[str, Any]) -> bool:
    """Check that a parsed config.json describes the format of `export_trained`."""
    return weights_of(config) is not None


def load_dequantized(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of the folder by the name a plain model has, on the CPU.

    Raises `ModelError` for files that are missing or damaged, and for codes without their scale, or
    the reverse.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder.name} holds no safetensors file")
    check_weights(folder)
    return _load_dequantized(paths, weights_of(read_config(folder)))


def load_blocks(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the codes and scales of each weight that a folder has in blocks, by the weight's name.

    Raises `ModelError` for files that are missing or damaged.
    """
    check_weights(folder)
    return dict(_take_blocks(_load(weight_files(folder)), weights_of(read_config(folder))))


def _load(paths: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= load_file(path)
    return tensors


def _take_blocks(
    tensors: dict[str, Tensor], weights: Weights | None
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Take the tensors of each weight in blocks out, and yield its codes and scales."""
    if weights in (None, "fp8"):
        return
    for packed in [name for name in tensors if name.endswith(f".{PACKED}")]:
        linear = packed.removesuffix(PACKED)
        parts = {
            last: tensors.pop(f"{linear}{last}") for last in STORED if f"{linear}{last}" in tensors
        }
        name = f"{linear}weight"
        yield name, BLOCK_FORMS[weights].unpack(name, parts)


def _load_dequantized(paths: Iterable[Path], weights: Weights | None) -> dict[str, Tensor]:
    tensors = _load(paths)
    for name, blocks in _take_blocks(tensors, weights):
        tensors[name] = BLOCK_FORMS[str(weights)].dequantize(*blocks)
    for name in [name for name in tensors if name.endswith(SCALE_SUFFIX)]:
        weight = name.removesuffix(SCALE_SUFFIX)
        if weight not in tensors:
            raise ModelError(f"{name} is there without {weight}")
        # e4m3 [O, I] times scale [O, 1]; exact in bf16, where a scale is a power of two.
        tensors[weight] = (tensors[weight].float() * tensors.pop(name)).to(torch.bfloat16)
    for name, value in tensors.items():
        if value.dtype == torch.float8_e4m3fn:
            raise ModelError(f"{name} is there without {name}{SCALE_SUFFIX}")
    return tensors


def decoder_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors that the decoder of a folder has, in bf16, by transformers' own names; a
    tied one once, and those of experts all together for each projection.

    Other tensors in its files are left out, as transformers does. Raises `ModelError` where files
    are missing or damaged, or shapes do not fit.
    """
    check_weights(folder)
    dimensions = ModelDimensions.from_config(read_config(folder))
    skeleton = build_decoder(folder, dimensions)
    num_experts = dimensions.experts.num_experts if dimensions.experts else 0
    tensors = _load_dequantized(weight_files(folder), weights_of(read_config(folder)))
    check_tensors(skeleton, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    prefix = f"{skeleton.base_model_prefix}."
    weights: dict[str, Tensor] = {}
    for name in skeleton.state_dict():
        if EXPERTS in name:
            weights |= take_experts(name, num_experts, tensors)
        elif name not in skeleton.all_tied_weights_keys:
            # The bare decoder is saved without its prefix.
            stored = name if name in tensors else name.removeprefix(prefix)
            value = tensors.pop(stored)
            weights[name] = value if is_wide(skeleton, name) else value.to(torch.bfloat16)
    return weights
