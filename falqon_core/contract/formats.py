"""The forms that a trained model can be had in, and which of them a recipe allows."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from falqon_core.contract.block_weights import Weights, title_of
from falqon_core.contract.config import DEFAULT_GROUP_SIZE, Recipe
from falqon_core.contract.errors import UserError
from falqon_core.contract.model_folder import MIXTURES

FormatName = Literal[
    "fp8",
    "nvfp4",
    "mxfp4",
    "q4_0",
    "q8_0",
    "lora",
    "gguf_lora",
    "bf16",
    "gguf",
    "gguf_q8_0",
    "gguf_q5_k_m",
    "gguf_q4_k_m",
    "gguf_q4_0",
    "q4_1",
]
# Written from a checkpoint and its base model.
MergedFormat = Literal["fp8", "nvfp4", "mxfp4", "q4_0", "q8_0", "q4_1"]
# LoRA is written from a checkpoint, the others from the model as it was trained.
ExactFormat = Literal["lora", "gguf_lora", "bf16", "gguf", "gguf_q4_0"]  # Nothing is rounded anew.
ConvertedFormat = Literal[
    "lora", "gguf_lora", "bf16", "gguf", "gguf_q8_0", "gguf_q5_k_m", "gguf_q4_k_m", "gguf_q4_0"
]
# A model as it was trained; a recipe's `weights` decide which of them it is.
TRAINED_FORMATS: tuple[Weights, ...] = get_args(Weights)
QuantizedGguf = Literal["gguf_q8_0", "gguf_q5_k_m", "gguf_q4_k_m"]
ADAPTERS: tuple[FormatName, ...] = ("lora", "gguf_lora")
FROM_CHECKPOINT: tuple[FormatName, ...] = (*ADAPTERS, "q4_1")
QUANTIZED_GGUF: tuple[QuantizedGguf, ...] = ("gguf_q8_0", "gguf_q5_k_m", "gguf_q4_k_m")
GGUF_FORMATS: tuple[FormatName, ...] = ("gguf", *QUANTIZED_GGUF, "gguf_q4_0", "q4_1")
# Files of the very codes that were trained, by the weights of the recipe.
EXACT_GGUF: dict[Weights, FormatName] = {"q4_0": "gguf_q4_0", "q8_0": "gguf_q8_0"}
# Forms that no training starts from; pages offer them as downloads.
NOT_TRAINABLE: tuple[FormatName, ...] = (*ADAPTERS, *GGUF_FORMATS)

FORMAT_DESCRIPTIONS: dict[FormatName, str] = {
    "fp8": "The merged FP8 checkpoint as it was trained (compressed-tensors): transformers and "
    "vLLM load it.",
    "nvfp4": "The merged model in NVFP4 as it was trained, bit for bit, about 4.5 bits a weight "
    "(compressed-tensors `nvfp4-pack-quantized`): transformers loads it, and vLLM names the "
    "format.",
    "mxfp4": "The merged model in MXFP4 as it was trained, bit for bit, about 4.25 bits a weight "
    "(compressed-tensors `mxfp4-pack-quantized`): transformers loads it, and vLLM names the "
    "format.",
    "q4_0": "The merged model in Q4_0 as it was trained, bit for bit, about 4.5 bits a weight "
    "(compressed-tensors `pack-quantized`): transformers loads it, and vLLM names the format; "
    "gguf_q4_0 is the same for llama.cpp.",
    "q8_0": "The merged model in Q8_0 as it was trained, bit for bit, about 8.5 bits a weight "
    "(compressed-tensors `pack-quantized`): transformers loads it, and vLLM names the format; "
    "gguf_q8_0 is the same for llama.cpp.",
    "lora": "The adapter as it was trained, A and B exactly: `PeftModel.from_pretrained` puts it "
    "on the untouched base model. On the base "
    "in bf16 the answers may differ a little from the FP8 model's, whose merged weights are "
    "rounded to FP8.",
    "gguf_lora": "The same adapter in one GGUF file: llama.cpp puts it on the base model's GGUF as "
    "it loads (`llama-server -m base.gguf --lora adapter.gguf`), or several of them on one base. "
    "Asked here, it shares the base's weights in memory with the others of that base.",
    "bf16": "The model's weights as plain bf16, which holds them exactly: for tools that do "
    "not read compressed-tensors.",
    "gguf": "The model's weights in one GGUF file, bf16, which holds them exactly: llama.cpp "
    "and what is built on it load it; "
    "the gguf_… forms are smaller.",
    "gguf_q8_0": "The same in llama.cpp's blocks of 8 bits (8.5 a weight), rounded by llama.cpp's "
    "own quantizer; of a model with weights in Q8_0 the codes as they were trained.",
    "gguf_q5_k_m": "The same in llama.cpp's mix of 5 and 6 bits (Q5_K_M, about 5.7 a weight), "
    "rounded by llama.cpp's own quantizer.",
    "gguf_q4_k_m": "The same in llama.cpp's mix of 4 and 6 bits (Q4_K_M, about 4.9 a weight), "
    "rounded by llama.cpp's own quantizer: what a laptop runs.",
    "gguf_q4_0": "The codes of a model with weights in Q4_0, bit for bit, in one GGUF file (about "
    "4.5 bits a weight): llama.cpp and what is built on it load it.",
    "q4_1": "The INT4 weights that QA-LoRA trained, bit for bit, in one GGUF file (Q4_1, about 5 "
    "bits a weight): llama.cpp and what is built on it load it.",
}
Q4_1_GROUP_SIZE = 32
MAX_SHARED_RANK = 512  # Of an adapter on a base that others share: vLLM takes no higher one.
GGUF_ARCHITECTURES = {
    "gemma4_text": "gemma4",
    "glm4_moe": "glm4moe",
    "gpt_oss": "gpt-oss",
    "lfm2": "lfm2",
    "llama": "llama",
    "ministral3": "mistral3",
    "mistral": "llama",
    "olmo3": "olmo2",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_5_text": "qwen35",
    "qwen3_moe": "qwen3moe",
}  # llama.cpp's name, by model_type.
GEMMA = "gemma4_text"
YARN_FAMILIES = ("gpt_oss", "ministral3", "olmo3")
# Every so many layers llama.cpp has one without a window.
WINDOW_PATTERNS: dict[object, int] = {"gpt_oss": 2, "olmo3": 4}
SWIGLU_LIMIT = 7.0  # Of llama.cpp's gpt-oss.
# Parts of a config.json that decide whether it has a GGUF.
ENGINE_KEYS = (
    "model_type",
    "rope_scaling",
    "rope_parameters",
    "use_sliding_window",
    "sliding_window",
    "layer_types",
    "num_hidden_layers",
    "swiglu_limit",
    "max_position_embeddings",
    "conv_bias",
    "norm_topk_prob",
    "mlp_only_layers",
    "decoder_sparse_step",
    "n_group",
)
ELSEWHERE = "vLLM on the worker, or a server at FALQON_ENGINE_URL, may; docs/engines.md says how."


class FormatUnavailable(UserError):
    """The model cannot be had in this form, with the reason."""

    code = "format_not_available"
    default_param = "format"


class SharedUnavailable(FormatUnavailable):
    """The model cannot answer as an adapter on its base, with the reason."""

    code = "shared_not_available"


class AdapterRankTooHigh(SharedUnavailable):
    code = "adapter_rank_too_high"


def check_shared(recipe: Recipe, model_config: dict[str, object]) -> None:
    """Check that a model of this recipe can answer as an adapter on its base.

    Raises `SharedUnavailable`.
    """
    if recipe.rank > MAX_SHARED_RANK:
        raise AdapterRankTooHigh(
            f"format: its adapter has rank {recipe.rank}, and engines put adapters of rank "
            f"{MAX_SHARED_RANK} at most on a base that others share"
        )
    try:
        check_format("gguf_lora", recipe, model_config)
    except FormatUnavailable as error:
        raise SharedUnavailable(str(error)) from None


def check_format(format: FormatName, recipe: Recipe, model_config: dict[str, object]) -> None:
    """Check what needs no file; `model_config` is a parsed config.json.

    Raises `FormatUnavailable`.
    """
    _check_weights(format, recipe, model_config)
    if format in ADAPTERS and recipe.update_rule == "topk":
        raise FormatUnavailable(
            "format: with update_rule 'topk' there is no adapter: each step's B is rounded into "
            "the FP8 weights and then forgotten, so no "
            "pair of A and B gives them back; take fp8, bf16 or gguf"
        )
    if format in ADAPTERS and recipe.method == "falqon" and recipe.base_copy == "none":
        raise FormatUnavailable(
            "format: with base_copy 'none' there is no adapter: each step is rounded into the FP8 "
            "weights by chance and then forgotten, so "
            "no pair of A and B gives them back; take fp8, bf16 or gguf"
        )
    if format == "q4_1":
        _check_int4(recipe, model_config)
    if format == "gguf_lora" and recipe.chat_template_kwargs:
        raise FormatUnavailable(
            "format: it was trained with variables of the chat template, which the base model's "
            "GGUF does not set; take gguf"
        )
    kind = model_config.get("model_type")
    if format == "gguf_lora" and kind in ("lfm2", "qwen3_5_text", *MIXTURES):
        raise FormatUnavailable(
            "format: an adapter of a hybrid or a mixture has not been shown to work in llama.cpp; "
            "take lora, or gguf for llama.cpp"
        )
    if format in QUANTIZED_GGUF and kind in MIXTURES:
        raise FormatUnavailable(
            "format: a mixture's experts are not rounded here; take gguf, which `llama-quantize` "
            "makes smaller"
        )
    if format in (*GGUF_FORMATS, "gguf_lora"):
        _check_gguf(model_config)


def _check_weights(format: FormatName, recipe: Recipe, model_config: dict[str, object]) -> None:
    weights, title = recipe.weights, title_of(recipe.weights)
    if format in TRAINED_FORMATS and format != weights:
        if weights == "fp8":
            raise FormatUnavailable(
                f"format: only a training of method 'falqon' with weights {format!r} has this "
                "form; take fp8"
            )
        raise FormatUnavailable(
            f"format: its weights were trained in {title}, and rounding them to another form would "
            f"change them; take {weights}, or bf16, which holds them exactly"
        )
    if format == "gguf_q4_0" and weights != "q4_0":
        raise FormatUnavailable(
            "format: only weights 'q4_0' are trained in these blocks; take gguf_q4_k_m, which "
            "rounds them afterwards"
            if weights == "fp8"
            else f"format: its weights were trained in {title}; take gguf, which holds them exactly"
        )
    if weights == "fp8":
        return
    if format in ADAPTERS:
        raise FormatUnavailable(
            f"format: its adapter was trained through the rounding to {title}, and beside weights "
            f"that are not rounded it is another model; take {weights}, bf16 or gguf"
        )
    exact = EXACT_GGUF.get(weights)
    if format in QUANTIZED_GGUF and format != exact:
        raise FormatUnavailable(
            f"format: its weights are in {title} already, and rounding them again would change "
            f"them; take {exact or 'gguf'}, which holds them exactly"
        )
    if format == exact and model_config.get("model_type") == "qwen3_5_text":
        raise FormatUnavailable(
            "format: the columns of Qwen3.5's delta nets stand in another order in llama.cpp, "
            "which its blocks do not follow; take gguf"
        )


def _check_int4(recipe: Recipe, model_config: dict[str, object]) -> None:
    kind = model_config.get("model_type")
    if kind in MIXTURES:
        raise FormatUnavailable(
            "format: a mixture has no Q4_1 file, as its experts are not trained in INT4; take "
            "gguf, which `llama-quantize` makes smaller"
        )
    if kind == "qwen3_5_text":
        raise FormatUnavailable(
            "format: the columns of Qwen3.5's delta nets stand in another order in llama.cpp, "
            "which Q4_1 blocks do not follow; take gguf_q4_k_m"
        )
    if recipe.method != "qa_lora":
        raise FormatUnavailable(
            "format: only method 'qa_lora' trains weights in INT4; take gguf_q4_k_m, which rounds "
            "them afterwards"
        )
    group_size = recipe.group_size or DEFAULT_GROUP_SIZE
    if group_size != Q4_1_GROUP_SIZE:
        raise FormatUnavailable(
            f"format: Q4_1 has groups of {Q4_1_GROUP_SIZE} weights, and this model was trained "
            f"with group_size {group_size}; take fp8, bf16 or gguf"
        )


def engine_note(model_config: dict[str, object]) -> str | None:
    """Return in sentences why the workers' own engine does not answer for a model, and what may;
    None where it does.
    """
    obstacle = _gguf_obstacle(model_config)
    return None if obstacle is None else engine_refusal(obstacle)


def engine_refusal(obstacle: str) -> str:
    """`obstacle`: as an export says it, whose advice does not help with a question."""
    reason = obstacle.removeprefix("format: ").partition("; take ")[0]
    return f"llama.cpp, the workers' own engine, does not load this model: {reason}. {ELSEWHERE}"


def _check_gguf(model_config: dict[str, object]) -> None:
    obstacle = _gguf_obstacle(model_config)
    if obstacle is not None:
        raise FormatUnavailable(f"format: {obstacle}; take fp8 or bf16")


def _gguf_obstacle(model_config: dict[str, object]) -> str | None:
    kind = model_config.get("model_type")
    if kind not in GGUF_ARCHITECTURES:
        return f"there is no GGUF for the architecture {kind!r}"
    if model_config.get("conv_bias"):
        return "the model's convolutions have biases, which its GGUF would not have"
    if _has_scaled_rotation(model_config):
        return "the model's rotary embeddings are scaled, which the GGUF export does not do"
    if kind in WINDOW_PATTERNS:
        if not _has_window_pattern(model_config, WINDOW_PATTERNS[kind]):
            return "the model's windows are in other layers than llama.cpp takes them to be"
    elif _has_window(model_config):
        return "the model's attention has a sliding window, which its GGUF would not have"
    return _mixture_obstacle(model_config)


def _mixture_obstacle(model_config: dict[str, object]) -> str | None:
    kind = model_config["model_type"]
    if kind == "qwen3_moe":
        if not model_config.get("norm_topk_prob"):
            return "the weights of its experts do not add up to one, as llama.cpp makes them"
        if (
            model_config.get("mlp_only_layers")
            or (model_config.get("decoder_sparse_step") or 1) != 1
        ):
            return "some of its layers have no experts, which llama.cpp takes all layers to have"
    if kind == "glm4_moe" and (model_config.get("n_group") or 1) != 1:
        return "its experts are chosen by groups, which llama.cpp does not do"
    if kind == "gpt_oss" and (model_config.get("swiglu_limit") or SWIGLU_LIMIT) != SWIGLU_LIMIT:
        return f"its experts are clamped elsewhere than at {SWIGLU_LIMIT}, where llama.cpp does"
    return None


def rotation_of(model_config: Mapping[str, object]) -> dict[str, Any]:
    """Return the rotary parameters of the layers that attend to all earlier tokens."""
    rope = model_config.get("rope_scaling") or model_config.get("rope_parameters") or {}
    assert isinstance(rope, dict)
    of_layers = rope.get("full_attention")
    return of_layers if isinstance(of_layers, dict) else rope


def _has_scaled_rotation(model_config: dict[str, object]) -> bool:
    """Return True for a scaling that the GGUF export cannot write. llama.cpp knows YaRN with the
    factor of attention that its paper gives, or none (`mscale`).
    """
    rope = rotation_of(model_config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if model_config["model_type"] == GEMMA:
        return kind not in ("default", "proportional") or rope.get("factor", 1.0) != 1
    if kind != "yarn":
        return bool(kind != "default")
    if model_config["model_type"] not in YARN_FAMILIES:
        return True
    factor, given = rope.get("factor"), rope.get("attention_factor")
    if not isinstance(factor, int | float) or factor < 1:
        return True
    is_usual = given is None or abs(given - 0.1 * math.log(factor) - 1) < 1e-6
    return not is_usual or rope.get("mscale", 1) != 1


def _has_window_pattern(model_config: dict[str, object], pattern: int) -> bool:
    """Return True if every `pattern`-th layer has no window, and all others have one."""
    number, types = (model_config.get(key) for key in ("num_hidden_layers", "layer_types"))
    regular = [
        "sliding_attention" if (layer + 1) % pattern else "full_attention"
        for layer in range(number if isinstance(number, int) else 0)
    ]
    return types is None or types == regular


def _has_window(model_config: dict[str, object]) -> bool:
    """Return True if the last token of a whole context attends to a part of it only."""
    window, context = (
        model_config.get(key) for key in ("sliding_window", "max_position_embeddings")
    )
    if isinstance(window, int) and isinstance(context, int) and window >= context:
        return False
    if model_config["model_type"] == "mistral":
        return bool(window)
    return bool(model_config.get("use_sliding_window"))
