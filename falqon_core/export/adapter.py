"""A training as a LoRA adapter: of PEFT, A [r, I] and B [O, r] in fp32 as the trainer holds them,
or of llama.cpp, in bf16.

The trained weight is `W + alpha / r * B A`, which is PEFT's own formula, and llama.cpp's; melded, A
is its dequantized FP8 value and B the fp32 master. The trainer then rounds the sum to FP8; an
adapter on the unrounded base does not. Where the method had rounded W before training, the adapter
belongs on W as rounded. An A over groups of g inputs [r, I / g] becomes one over inputs, each
column g times, by sqrt(g); connections past A and B (IEC of IR-LoRA) become part of them. Rules
that keep no B have no adapter (`contract.formats`).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ModelError
from falqon_core.contract.formats import FormatUnavailable, check_format
from falqon_core.contract.model_folder import read_config
from falqon_core.export.gguf import write_gguf_adapter_file
from falqon_core.export.peft import PEFT_PREFIX, PEFT_WEIGHTS, write_peft_config

Factors = tuple[Tensor, Tensor]
TRAINED_B = (".delta", ".lora_b")


def write_adapter(checkpoint: Path, folder: Path, base_model: str) -> Recipe:
    """Write the adapter into an existing folder. Return the recipe of its training. Raises
    `FormatUnavailable`, and `ModelError` for any other folder than a checkpoint's, or a damaged
    one.
    """
    recipe, factors = _read_checkpoint(checkpoint)
    check_format("lora", recipe, {})
    tensors = {
        f"{PEFT_PREFIX}{name}.lora_{letter}.weight": factor
        for name, pair in factors.items()
        for letter, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / PEFT_WEIGHTS, metadata={"format": "pt"})
    write_peft_config(folder, base_model, recipe.rank, _alpha(recipe), list(factors))
    return recipe


def write_gguf_adapter(checkpoint: Path, folder: Path, name: str) -> Recipe:
    """Write the adapter as `adapter.gguf` into an existing folder; `checkpoint` has a config.json
    of the base model beside it. `name` is shown. Return the recipe of its training. Raises
    `FormatUnavailable`, and `ModelError` as `write_adapter`.
    """
    recipe, factors = _read_checkpoint(checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise FormatUnavailable(
            "format: the base model has been deleted, and with it the shapes that llama.cpp's "
            "order of rows depends on; take lora"
        )
    config = read_config(checkpoint)
    check_format("gguf_lora", recipe, config)
    write_gguf_adapter_file(folder / "adapter.gguf", name, config, _alpha(recipe), factors)
    return recipe


def read_factors(checkpoint: Path) -> dict[str, Factors]:
    """Return A [r, I] and B [O, r], fp32, by the full name of their linear. Raises `ModelError`."""
    return _read_checkpoint(checkpoint)[1]


def scaling_of(recipe: Recipe) -> float:
    """Return the factor of B A."""
    return _alpha(recipe) / recipe.rank


def _alpha(recipe: Recipe) -> float:
    return recipe.rank if recipe.alpha is None else recipe.alpha


def _read_checkpoint(checkpoint: Path) -> tuple[Recipe, dict[str, Factors]]:
    """Return the recipe, and A [r, I] and B [O, r] by the full name of their linear."""
    progress = checkpoint / "progress.json"
    if not progress.is_file():
        raise ModelError(f"{checkpoint.name} is no folder of a checkpoint", "source")
    try:
        recipe = Recipe.model_validate(json.loads(progress.read_bytes())["recipe"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{checkpoint.name} is damaged: progress.json", "source") from None
    try:
        return recipe, _read(checkpoint / "method.safetensors", recipe.group_size)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{checkpoint.name} is damaged: method.safetensors: {error}", "source"
        ) from None


def _read(path: Path, group_size: int | None) -> dict[str, Factors]:
    with safe_open(path, "pt") as file:
        keys = set(file.keys())
        names = sorted({name.rpartition(".")[0] for name in keys if name.endswith(TRAINED_B)})
        factors = {}
        for name in names:
            a, b = _factors(file, name, keys)
            if group_size is not None:
                a = expand_groups(a, group_size)
            if f"{name}.beta1" in keys:
                betas = (file.get_tensor(f"{name}.beta1"), file.get_tensor(f"{name}.beta2"))
                a, b = fold_connections(a, b, *betas)
            factors[name] = a, b
    return factors


def _factors(file: Any, name: str, keys: set[str]) -> tuple[Tensor, Tensor]:
    """Return A and B of one linear."""
    if f"{name}.delta" in keys:
        a = file.get_tensor(f"{name}.a").float() * file.get_tensor(f"{name}.a_scale")
        return a, file.get_tensor(f"{name}.delta")
    return file.get_tensor(f"{name}.lora_a"), file.get_tensor(f"{name}.lora_b")


def expand_groups(a: Tensor, group_size: int) -> Tensor:
    """Return an A over groups [r, G] as one over inputs [r, G * group_size]."""
    columns = a[..., None].expand(-1, -1, group_size).flatten(1)
    return columns / math.sqrt(group_size)


def fold_connections(a: Tensor, b: Tensor, beta1: Tensor, beta2: Tensor) -> tuple[Tensor, Tensor]:
    """Return A [r, I] and B [O, r] of the ordinary adapter; the betas are [1]."""
    rank = len(a)
    identity = torch.eye(rank, dtype=a.dtype, device=a.device)
    parts = a.unflatten(1, (rank, -1))
    folded_a = parts + (beta1 / parts.shape[2]) * identity[:, :, None]
    folded_b = b.unflatten(0, (rank, -1)) + beta2 * identity[:, None, :]
    return folded_a.flatten(1), folded_b.flatten(0, 1)
