"""The trained delta as a PEFT LoRA adapter: A [r, I] and B [O, r] in fp32, exactly as the trainer
holds them.

What was trained is `W + alpha / r * B A`, with A as its dequantized FP8 value and B the fp32
master, which is PEFT's own formula. The trainer then rounds the sum to FP8; an adapter on the
unrounded base does not. Rules that keep no B have no adapter (`contract.formats`).
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import check_format

PEFT_PREFIX = "base_model.model."


def write_adapter(checkpoint: Path, folder: Path, base_model: str) -> Recipe:
    """Into an existing folder; return what it was trained with. Raises `FormatUnavailable`."""
    recipe = Recipe.model_validate(
        json.loads((checkpoint / "progress.json").read_bytes())["recipe"]
    )
    check_format("lora", recipe, {})
    names, tensors = _read(checkpoint / "method.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": recipe.rank,
        "lora_alpha": recipe.rank if recipe.alpha is None else recipe.alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in names}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
    return recipe


def _read(path: Path) -> tuple[list[str], dict[str, Tensor]]:
    """-> (full names of the melded linears, PEFT's tensors)."""
    with safe_open(path, "pt") as file:
        names = [name.removesuffix(".delta") for name in file.keys() if name.endswith(".delta")]  # noqa: SIM118, it is no mapping
        tensors = {}
        for name in names:
            tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = file.get_tensor(
                f"{name}.a"
            ).float() * file.get_tensor(f"{name}.a_scale")
            tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = file.get_tensor(f"{name}.delta")
    return names, tensors
