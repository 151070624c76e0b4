"""Load a base model for training: from a folder that was checked, offline, in bf16, without remote
code.

A model that was fine-tuned here is one too: its FP8 weights come back as bf16. What is no decoder
by `importers.decoder` is refused.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import (
    check_architecture,
    check_model_folder,
    check_weights,
    weight_shapes,
)
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.export.reading import is_ours, load_dequantized
from falqon_core.importers.decoder import build_decoder
from falqon_core.importers.soundness import check_generation, check_tensors, check_token_id
from falqon_core.importers.tokenizer import load_tokenizer
from falqon_core.meld.token_mixers import mix_by_segment
from falqon_core.ops import attention
from falqon_core.ops.experts import quantize_experts
from falqon_core.ops.matmul import widen_linears
from falqon_core.train.streaming import move_all_but_linears

__all__ = [
    "check_token_id",
    "load_base_model",
    "load_dimensions",
    "load_tokenizer",
]


def load_dimensions(folder: Path) -> ModelDimensions:
    """Read them from the folder's config.json, without a weight being read. Raises `ModelError` for
    anything refused.
    """
    config = check_model_folder(folder)
    check_architecture(config)
    if "quantization_config" in config and not is_ours(config):
        raise ModelError(
            "the model is quantized already, and not by this trainer; provide the bf16 or fp32 "
            "weights",
            "model",
        )
    return ModelDimensions.from_config(config)


def load_base_model(
    folder: Path, device: torch.device | None = None, streamed: bool = False
) -> PreTrainedModel:
    """The model in eval mode (training has no dropout) with our attention, on `device` (None: the
    CPU); with `streamed` the weights of its linears stay in host memory, see streaming.py.

    Raises `ModelError` for anything refused or broken.
    """
    dimensions = load_dimensions(folder)
    check_weights(folder)
    check_generation(folder)
    skeleton = build_decoder(folder, dimensions)
    config = skeleton.config
    try:
        source: tuple[Path | None, dict[str, torch.Tensor] | None] = (folder, None)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
            tensors = load_dequantized(folder)
            check_tensors(skeleton, {name: tuple(each.shape) for name, each in tensors.items()})
            source = None, tensors
        else:
            check_tensors(skeleton, weight_shapes(folder))
        model, loading = type(skeleton).from_pretrained(
            source[0],
            state_dict=source[1],
            config=config,
            dtype=torch.bfloat16,
            attn_implementation=attention.ATTENTION_NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        if source[0] is None and (folder / "generation_config.json").is_file():
            # transformers reads it with weights from the folder only.
            model.generation_config = GenerationConfig.from_pretrained(
                folder, local_files_only=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"the model cannot be loaded: {error}", "model") from error
    # transformers would train on random numbers there
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"the model's files lack {len(missing)} tensors, the first is {missing[0]}", "model"
        )
    model.eval()
    quantize_experts(model)
    mix_by_segment(model)
    if streamed:
        move_all_but_linears(model, device or torch.device("cpu"))
    else:
        model.to(device or "cpu")
    widen_linears(model)
    return model
