"""Models that llama.cpp, the workers' own engine, loads from a GGUF, by their config.json."""

import math
from collections.abc import Mapping
from typing import Any

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


def engine_note(model_config: dict[str, object]) -> str | None:
    """Return in sentences why the workers' own engine does not answer for a model, and what may;
    None where it does.
    """
    obstacle = gguf_obstacle(model_config)
    return None if obstacle is None else engine_refusal(obstacle)


def engine_refusal(obstacle: str) -> str:
    """`obstacle`: as an export says it, whose advice does not help with a question."""
    reason = obstacle.removeprefix("format: ").partition("; take ")[0]
    return f"llama.cpp, the workers' own engine, does not load this model: {reason}. {ELSEWHERE}"


def gguf_obstacle(model_config: dict[str, object]) -> str | None:
    """Return why a model, with that parsed config.json, has no GGUF; None where it has one."""
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
