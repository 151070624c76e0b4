"""Layers of attention that differ from one another (Gemma 4), read from a config.json.

Layers with a window and those without have heads of their own size, the last layers may read keys
and values of earlier ones, and keys may be values too. Each layer may also read an embedding of its
own.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

GEMMA4 = "gemma4_text"
MAX_WIDTH = 2**20
MAX_KV_HEADS = 1_024
MAX_HEAD_DIM = 8_192
WINDOW_INTERVAL = 6  # Of transformers, where a config names no layers.
Count = Callable[..., int]  # (config, key, most, default=None)


class AttentionLayers(BaseModel):
    """Sizes of `num_layers` layers that are alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    has_keys: bool  # False where they are those of an earlier layer
    has_values: bool  # False where there are no keys, or keys are values too


class LayerEmbeddings(BaseModel):
    """Embeddings that each layer has of its own, `width` numbers of `vocab_size` tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    vocab_size: int


def read_attention_layers(
    config: dict[str, Any],
    num_layers: int,
    intermediate: int,
    num_heads: int,
    kv_heads: int,
    count: Count,
) -> tuple[AttentionLayers, ...]:
    """Read them from a parsed config.json; none where all layers are alike. `count` reads one
    bounded number and raises `ValueError` for another value.
    """
    if config.get("model_type") != GEMMA4:
        return ()
    types = _layer_types(config, num_layers)
    overrides = _overrides(config, types)
    num_shared = config.get("num_kv_shared_layers") or 0
    if type(num_shared) is not int or not 0 <= num_shared <= num_layers:
        raise ValueError(f"num_kv_shared_layers is {num_shared!r:.40}, with {num_layers} layers")
    found: Counter[tuple[int, int, int, bool, bool]] = Counter()
    for layer, kind in enumerate(types):
        own = overrides.get(layer, {})
        has_keys = layer < num_layers - num_shared
        keys_are_values = bool(config.get("attention_k_eq_v")) and kind == "full_attention"
        is_wide = bool(config.get("use_double_wide_mlp")) and not has_keys
        sizes = (
            count(own, "num_key_value_heads", MAX_KV_HEADS, kv_heads),
            count(own, "head_dim", MAX_HEAD_DIM, count(config, "head_dim", MAX_HEAD_DIM, 256)),
            intermediate * (2 if is_wide else 1),
        )
        found[*sizes, has_keys, has_keys and not keys_are_values] += 1
    for kv_heads, head_dim, *_ in found:
        if num_heads % kv_heads or head_dim % 2:
            raise ValueError(
                f"layers have {kv_heads} key-value heads of {head_dim}, which {num_heads} heads "
                "cannot share, or which have no pairs to rotate"
            )
    return tuple(
        AttentionLayers(
            num_layers=number,
            num_kv_heads=heads,
            head_dim=head_dim,
            intermediate_size=width,
            has_keys=has_keys,
            has_values=has_values,
        )
        for (heads, head_dim, width, has_keys, has_values), number in found.items()
    )


def read_layer_embeddings(
    config: dict[str, Any], vocabulary: int, count: Count
) -> LayerEmbeddings | None:
    """Read them from a parsed config.json; None of a model that has none."""
    if config.get("model_type") != GEMMA4 or not config.get("hidden_size_per_layer_input", 256):
        return None
    rows = count(config, "vocab_size_per_layer_input", MAX_WIDTH, 262_144)
    if rows < vocabulary:
        raise ValueError(f"vocab_size_per_layer_input {rows} is less than vocab_size {vocabulary}")
    width = count(config, "hidden_size_per_layer_input", MAX_WIDTH, 256)
    return LayerEmbeddings(width=width, vocab_size=rows)


def _layer_types(config: dict[str, Any], num_layers: int) -> list[str]:
    """Return the type of each layer as transformers decides; the last attends to all tokens."""
    types = config.get("layer_types")
    if types is None:
        types = [
            "sliding_attention" if (layer + 1) % WINDOW_INTERVAL else "full_attention"
            for layer in range(num_layers)
        ]
    if not isinstance(types, list) or len(types) != num_layers:
        raise ValueError(f"layer_types does not name {num_layers} layers")
    return [*types[:-1], "full_attention"]


def _overrides(config: dict[str, Any], types: list[str]) -> dict[int, dict[str, Any]]:
    """Return what differs in single layers: as a config names it, or in all without a window."""
    named = config.get("per_layer_config")
    if named is not None and not isinstance(named, dict):
        raise ValueError("per_layer_config is no JSON object")
    if named is not None:
        return {int(layer): dict(own) for layer, own in named.items()}
    own = {"head_dim": config.get("global_head_dim", 512)}
    heads = config.get("num_global_key_value_heads")
    if config.get("attention_k_eq_v") and heads is not None:
        own["num_key_value_heads"] = heads
    return {layer: own for layer, kind in enumerate(types) if kind == "full_attention"}
