"""Make a plain bf16 decoder of a folder that holds one in another form.

Two forms are read, both by transformers itself: weights that others have quantized, which are
dequantized where an installed library can, and the text decoder within a model that also sees
images (Gemma 3, Qwen3.5), which is taken out. What comes of it is checked as any folder is. It
needs memory for the model in bf16.
"""

import json
import math
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    CompressedTensorsConfig,
    FineGrainedFP8Config,
    Mxfp4Config,
    PreTrainedModel,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from falqon_core.contract.errors import ModelError, blamed_on_model
from falqon_core.contract.model_folder import (
    EXPERT_FORMAT,
    MXFP4,
    weight_dtypes,
    weight_shapes,
)
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.importers.decoder import build_decoder

TEXT_CONFIG_KEY = "text_config"
QUANTIZATION_KEY = "quantization_config"
TIED_KEY = "tie_word_embeddings"  # Some models say so around the config of their text decoder.
BNB_KIND = "bnb_4bit_quant_type"
DIMENSIONS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)
# Dtypes of codes of a byte each, as safetensors names them. Packed codes are no `weight`.
CODE_DTYPES = ("F8_E4M3", "F8_E5M2", "I8")
SCALE_ENDINGS = ("_scale", "_scale_inv")
ZERO_POINT_ENDING = "_zero_point"
# Names of the scale of a `weight` that transformers reads, by method.
SCALE_NAMES = {
    "bitsandbytes": ("SCB",),
    "compressed-tensors": ("weight_scale",),
    "fp8": ("weight_scale_inv", "scale", "qscale_weight"),
}
MTP_PREFIX = "mtp."
# Names of a text decoder's tensors in the layouts that transformers has written over time.
TEXT_TENSORS = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^(?:model\.)?language_model\.(?!lm_head)(?:model\.)?": "model.",
}


def decoder_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the parsed config.json of the text decoder within, as if its weights were plain."""
    inner = config.get(TEXT_CONFIG_KEY, config)
    if not isinstance(inner, dict):
        raise ModelError(f"{TEXT_CONFIG_KEY} of config.json is not a JSON object")
    plain = {key: value for key, value in inner.items() if key != QUANTIZATION_KEY}
    if TEXT_CONFIG_KEY not in config:
        return plain
    around = {TIED_KEY: config[TIED_KEY]} if TIED_KEY in config else {}
    return _defaults(plain.get("model_type")) | around | plain


def check_quantization(config: dict[str, Any]) -> None:
    """Raise `ModelError` for a quantization that no installed library undoes."""
    quantization = _quantization(config)
    if quantization is None:
        return
    # A form of experts, which transformers knows of one family.
    if quantization.get("quant_method") == MXFP4 and config.get("model_type") != "gpt_oss":
        raise _irreversible(quantization)
    _loading_options(quantization)


def convert_decoder(source: Path, config: dict[str, Any], output: Path) -> list[str]:
    """Write config.json and weights into the existing, empty folder `output`; return the changes,
    in sentences. `config` is the parsed config.json of `source`. Raises `ModelError`.
    """
    plain = decoder_config(config)
    quantization = _quantization(config)
    if quantization is not None and quantization.get("quant_method") == MXFP4:
        plain[EXPERT_FORMAT] = MXFP4
    dimensions = ModelDimensions.from_config(plain)
    (output / "config.json").write_text(json.dumps(plain) + "\n", encoding="utf-8")
    skeleton = build_decoder(output, dimensions)
    model = _load(source, skeleton, quantization, TEXT_CONFIG_KEY in config)
    model.save_pretrained(output, save_original_format=False)
    notes = []
    if quantization is not None:
        notes.append(f"The weights were {_describe(quantization)} and are dequantized to bf16.")
    if TEXT_CONFIG_KEY in config:
        notes.append(
            f"Of the {config.get('model_type')} model only the text decoder is taken; it sees no "
            "images here."
        )
    if any(name.startswith(MTP_PREFIX) for name in weight_shapes(source)):
        notes.append(
            "Its layers that predict further tokens (MTP) are left out; answers are the same "
            "without them."
        )
    return notes


def _defaults(kind: object) -> dict[str, Any]:
    """Return the dimensions that transformers takes where the config of a part leaves them out."""
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"model type {kind!r} is not supported")
    defaults = CONFIG_MAPPING[kind]().to_dict()
    return {key: defaults[key] for key in DIMENSIONS if key in defaults}


def _load(
    source: Path, skeleton: PreTrainedModel, quantization: dict[str, Any] | None, is_part: bool
) -> PreTrainedModel:
    config = skeleton.config
    options: dict[str, Any] = {}
    if quantization is not None:
        config.quantization_config = quantization
        options |= _loading_options(quantization)
    if is_part:
        options["key_mapping"] = TEXT_TENSORS
    try:
        with warnings.catch_warnings():
            # transformers says so for every loader option that meets a quantized checkpoint
            warnings.filterwarnings("ignore", "You passed `quantization_config`", UserWarning)
            model, loading = type(skeleton).from_pretrained(
                source,
                config=config,
                dtype=torch.bfloat16,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
            if quantization and quantization["quant_method"] == "bitsandbytes":
                _check_scales(model)
                model.dequantize(torch.bfloat16)
    except ModelError:
        raise
    # Libraries that dequantize external weights may raise any error.
    except Exception as error:
        raise blamed_on_model("the weights cannot be converted to bf16", error) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"the model's files lack {len(missing)} tensors, the first is {missing[0]}"
        )
    method = quantization.get("quant_method") if quantization else None
    _check_codes(weight_dtypes(source), method, loading["unexpected_keys"])
    return model


def _check_codes(dtypes: dict[str, str], method: object, unexpected: Collection[str]) -> None:
    """Raise `ModelError` for codes that were loaded without their scales: transformers takes them
    for the weights themselves. `unexpected` are the tensors that it has left out.
    """
    for name, dtype in dtypes.items():
        if dtype not in CODE_DTYPES or name.endswith((*SCALE_ENDINGS, ZERO_POINT_ENDING)):
            continue
        if name not in unexpected and not _has_scale(name, dtypes, method):
            raise _unscaled(
                f"{name} is in {dtype}, and the files hold no scale of it that is read by the "
                "quantization in config.json"
            )
    for scale in sorted(unexpected):
        for ending in SCALE_ENDINGS:
            name = scale.removesuffix(ending)
            # Scales of activations and of the cache of keys and values have no such tensor.
            if name != scale and name in dtypes and name not in unexpected:
                raise _unscaled(f"the quantization in config.json does not read {scale}")


def _has_scale(name: str, dtypes: dict[str, str], method: object) -> bool:
    """Check that the files hold the scale of codes; experts all together have a name of their own,
    where a linear has `weight`.
    """
    module, _, last = name.rpartition(".")
    scales = SCALE_NAMES.get(str(method), ())
    return any(f"{module}.{scale.replace('weight', last)}" in dtypes for scale in scales)


def _unscaled(problem: str) -> ModelError:
    return ModelError(f"{problem}; export the model in bf16 first, and import that")


def _quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    inner = config.get(TEXT_CONFIG_KEY)
    nested = inner.get(QUANTIZATION_KEY) if isinstance(inner, dict) else None
    described = config.get(QUANTIZATION_KEY, nested)
    if described is not None and not isinstance(described, dict):
        raise ModelError(f"{QUANTIZATION_KEY} of config.json is not a JSON object")
    return described


def _check_scales(model: PreTrainedModel) -> None:
    """Raise `ModelError` unless each 4-bit weight has a scale for each of its blocks: bitsandbytes
    would read beyond their end.
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        num_blocks = _num_blocks(module.in_features * module.out_features, state.blocksize)
        is_sound = state.shape == (module.out_features, module.in_features)
        is_sound &= state.absmax.numel() == num_blocks
        if state.nested:
            num_outer_blocks = _num_blocks(num_blocks, state.state2.blocksize)
            is_sound &= state.state2.absmax.numel() == num_outer_blocks
            is_sound &= state.state2.code.numel() == 256
        if not is_sound:
            raise ModelError(f"{name}.weight has not the scales that its blocks need")


def _num_blocks(num_values: int, block_size: object) -> int:
    if not isinstance(block_size, int) or block_size < 1:
        raise ModelError(f"the weights are in blocks of {str(block_size)[:40]}")
    return math.ceil(num_values / block_size)


def _loading_options(quantization: dict[str, Any]) -> dict[str, QuantizationConfigMixin]:
    """Return the options with which transformers loads such weights dequantized, or so that they
    can be. Raises `ModelError` where it cannot.
    """
    method = quantization.get("quant_method")
    if method == "compressed-tensors":
        return {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    if method == "fp8":
        return {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    if method == MXFP4:
        return {"quantization_config": Mxfp4Config(dequantize=True)}
    if method == "bitsandbytes":
        return {}
    raise _irreversible(quantization)


def _irreversible(quantization: dict[str, Any]) -> ModelError:
    return ModelError(
        f"the model is quantized already ({_describe(quantization)}), which cannot be undone here; "
        "provide its bf16 or fp32 weights"
    )


def _describe(quantization: dict[str, Any]) -> str:
    """Name the format in a few words."""
    method = str(quantization.get("quant_method"))[:40]
    match method:
        case "compressed-tensors":
            return f"compressed-tensors, {str(quantization.get('format'))[:40]}"
        case "fp8":
            return "FP8 in blocks with weight_scale_inv"
        case "mxfp4":
            return "MXFP4 in blocks of 32"
        case "bitsandbytes":
            kind = "int8" if quantization.get("load_in_8bit") else quantization.get(BNB_KIND)
            return f"bitsandbytes, {str(kind)[:40]}"
    return method
