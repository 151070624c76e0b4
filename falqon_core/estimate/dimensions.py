"""Dimensions and parameter counts of a base model, read from its config.json.

Covers decoders whose layers are q, k, v, o and gate, up, down projections, or q, k, v in one and
gate, up in one (Phi-3), mixtures of experts (`experts`), and layers with another token mixer than
attention (`mixers`). Whether a model's modules are what is counted here, only its import can tell
(`importers.decoder`). Every number of a config is external and is bounded here, for all who compute
with it; models larger than any that exists (the maxima below) are refused.
"""

import math
from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from falqon_core.contract.errors import ModelError
from falqon_core.estimate.attention_layers import (
    AttentionLayers,
    LayerEmbeddings,
    read_attention_layers,
    read_layer_embeddings,
)
from falqon_core.estimate.experts import Experts, read_experts
from falqon_core.estimate.layer_kinds import LayerKind, attention_shapes, mlp_shapes
from falqon_core.estimate.mixers import (
    GatedDelta,
    Mixer,
    Shapes,
    ShortConvolution,
    read_lfm2,
    read_mixer,
)

MAX_LAYERS = 512
MAX_HEADS = 1_024
MAX_HEAD_DIM = 8_192
MAX_HIDDEN_SIZE = 2**17
MAX_INTERMEDIATE_SIZE = 2**20
MAX_VOCABULARY = 2**20
MAX_POSITIONS = 2**27
MAX_NUMBER = 2**40  # The limit of every other number, above and below zero.
# Defaults of transformers where a config.json has no value.
CONFIG_DEFAULTS: dict[Any, dict[str, Any]] = {
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
    "gemma3_text": {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
    "gemma4_text": {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
    "glm4_moe": {"num_key_value_heads": 8},
    "gpt_oss": {"num_key_value_heads": 8, "head_dim": 64},
    "lfm2": {"num_key_value_heads": 8, "tie_word_embeddings": True},
    "ministral3": {"num_key_value_heads": 8, "head_dim": 128},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_5_moe_text": {"num_key_value_heads": 2, "head_dim": 256, "intermediate_size": 512},
    "qwen3_5_text": {"num_key_value_heads": 4, "head_dim": 256},
    "qwen3_moe": {"num_key_value_heads": 4},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True},
}
ROTATED_IN_PLACE = {"llama", "mistral", "qwen2"}  # Qwen 3 has norms in between
# An FP8 GPU keeps gate and up of their MLPs as codes where the activation is silu.
GATED_BY_SILU = {
    "glm4_moe",
    "granite",
    "llama",
    "ministral3",
    "mistral",
    "olmo2",
    "olmo3",
    "qwen2",
    "qwen3",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_moe",
    "smollm3",
}
GATED_ATTENTION = {"qwen3_5_moe_text", "qwen3_5_text"}  # Queries bring a gate of the output along.
HEAD_NORMS = {"gemma3_text", "lfm2", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe"}
# A factor of 1 counts as one that changes them.
LOGIT_FACTORS = ("logit_scale", "logits_scaling", "final_logit_softcapping")
FUSED_MODEL_TYPES = {"phi3"}  # Here q, k, v are one linear, and gate, up another.
# Other names of linears of attention and MLP.
LINEAR_NAMES = {
    "lfm2": {"o_proj": "out_proj", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
}


class ModelDimensions(BaseModel):
    """Sizes of one decoder; every field is a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tied_embeddings: bool
    fused_projections: bool = False
    linear_names: dict[str, str] = {}
    experts: Experts | None = None
    mixer: GatedDelta | ShortConvolution | None = None
    has_gated_attention: bool = False
    # Layers that differ in their attention; none where all are of the sizes above.
    attention_layers: tuple[AttentionLayers, ...] = ()
    layer_embeddings: LayerEmbeddings | None = None
    # Parameters of one layer's further norms and biases, beside two norms of the hidden size.
    num_layer_vector_parameters: int = 0
    # Numbers of a token that a layer keeps for backward beside those that a Llama's keeps.
    num_extra_activations: int = 0
    # True where an FP8 GPU rotates q and k in the product that they come from (meld/fused.py).
    rotates_in_place: bool = False
    # True where an FP8 GPU keeps gate and up as codes (ops/swiglu_codes.py).
    keeps_gate_codes: bool = False
    # True where logits are neither scaled nor capped, so that a GPU holds them in bf16 only
    # (ops/softmax_losses.py).
    has_plain_logits: bool = False
    # False for a GPU without FP8 products: inputs of linears are kept in bf16, no layer is fused.
    has_fp8: bool = True

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read them from the parsed config.json. Raises `ModelError` for a number that is missing
        or that no model has.
        """
        try:
            _check_numbers(config)
            filled = CONFIG_DEFAULTS.get(config.get("model_type"), {}) | config
            if config.get("model_type") == "lfm2":
                filled |= read_lfm2(config, _count)
            heads = _count(filled, "num_attention_heads", MAX_HEADS)
            hidden = _count(filled, "hidden_size", MAX_HIDDEN_SIZE)
            kv_heads = _count(filled, "num_key_value_heads", MAX_HEADS, heads)
            head_dim = _count(filled, "head_dim", MAX_HEAD_DIM, hidden // heads)
            intermediate = _count(filled, "intermediate_size", MAX_INTERMEDIATE_SIZE)
            vocabulary = _count(filled, "vocab_size", MAX_VOCABULARY)
            if filled.get("head_dim") is None and hidden % heads:
                raise ValueError(
                    f"hidden_size {hidden} is no multiple of num_attention_heads {heads}"
                )
            if heads % kv_heads:
                raise ValueError(
                    f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
                )
            if head_dim % 2:
                raise ValueError(f"head_dim {head_dim} is odd, so it has no pairs to rotate")
            _check_token_ids(config, vocabulary)
            layers = _count(filled, "num_hidden_layers", MAX_LAYERS)
            return cls(
                hidden_size=hidden,
                intermediate_size=intermediate,
                num_layers=layers,
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                vocab_size=vocabulary,
                max_position_embeddings=_count(filled, "max_position_embeddings", MAX_POSITIONS),
                tied_embeddings=bool(filled.get("tie_word_embeddings", False)),
                fused_projections=config.get("model_type") in FUSED_MODEL_TYPES,
                linear_names=LINEAR_NAMES.get(str(config.get("model_type")), {}),
                experts=read_experts(config, layers, _count),
                mixer=read_mixer(config, layers, _count),
                attention_layers=read_attention_layers(
                    filled, layers, intermediate, heads, kv_heads, _count
                ),
                layer_embeddings=read_layer_embeddings(config, vocabulary, _count),
                has_gated_attention=config.get("model_type") in GATED_ATTENTION,
                num_layer_vector_parameters=_count_vectors(
                    config, hidden, intermediate, heads, kv_heads, head_dim
                ),
                num_extra_activations=_count_extra_activations(config, hidden, intermediate),
                rotates_in_place=config.get("model_type") in ROTATED_IN_PLACE
                and not config.get("mlp_bias"),
                keeps_gate_codes=config.get("model_type") in GATED_BY_SILU
                and config.get("hidden_act", "silu") in ("silu", "swish"),
                has_plain_logits=not any(config.get(key) for key in LOGIT_FACTORS),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise ModelError(
                f"config.json describes no supported decoder: {reason}", "model"
            ) from None

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """Return the kinds of layers: those with an MLP and those with experts, or those with
        attention and those with another token mixer.
        """
        if self.attention_layers:
            return tuple(self._kind_of(layers) for layers in self.attention_layers)
        # No family has both dense layers beside experts and other mixers.
        experts, mixer = self.experts, self.mixer
        has_experts = experts is not None
        dense = experts.num_dense_layers if experts else 0
        mixing = mixer.num_layers if mixer else 0
        inner = experts.shared_intermediate_size if experts else self.intermediate_size
        kinds = (
            (dense, self.intermediate_size, False, None),
            (self.num_layers - dense - mixing, inner, has_experts, None),
            (mixing, inner, has_experts, mixer),
        )
        return tuple(self._layer_kind(*kind) for kind in kinds if kind[0])

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """[O, I] of each linear of a layer, by name; the smaller one where layers differ."""
        shapes: dict[str, tuple[int, int]] = {}
        for kind in self.layer_kinds:
            for name, shape in kind.linear_shapes.items():
                shapes[name] = min(shape, shapes.get(name, shape))
        return shapes

    def _layer_kind(
        self, number: int, intermediate: int, has_experts: bool, mixer: Mixer | None
    ) -> LayerKind:
        hidden = self.hidden_size
        fused = self.fused_projections
        queries, keys = 0, 0
        if mixer is None:
            queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
            mixing = attention_shapes(hidden, queries, keys, fused, self.has_gated_attention)
        else:
            mixing = mixer.linear_shapes(hidden)
        linears = mixing | mlp_shapes(hidden, intermediate, fused)
        if names := self.linear_names:
            linears = {names.get(name, name): shape for name, shape in linears.items()}
        gates = {} if mixer is None else mixer.gate_shapes(hidden)
        if has_experts and self.experts is not None and self.experts.has_shared_gate:
            gates["shared_expert_gate"] = (1, hidden)
        return LayerKind(number, intermediate, has_experts, linears, gates, queries, keys, mixer)

    def _kind_of(self, layers: AttentionLayers) -> LayerKind:
        hidden = self.hidden_size
        queries, keys = self.num_heads * layers.head_dim, layers.num_kv_heads * layers.head_dim
        linears = attention_shapes(hidden, queries, keys, fused=False, gated=False)
        missing = {"k_proj": not layers.has_keys, "v_proj": not layers.has_values}
        linears = {name: shape for name, shape in linears.items() if not missing.get(name)}
        linears |= mlp_shapes(hidden, layers.intermediate_size, fused=False)
        gates: Shapes = {}
        if self.layer_embeddings is not None:
            width = self.layer_embeddings.width
            gates["per_layer_input_gate"] = (width, hidden)
            gates["per_layer_projection"] = (hidden, width)
        kept_keys = keys if layers.has_keys else 0
        return LayerKind(
            layers.num_layers, layers.intermediate_size, False, linears, gates, queries, kept_keys
        )

    @property
    def num_linear_parameters(self) -> int:
        """Count the weights of all decoder linears, the part that is quantized and melded."""
        return sum(
            kind.number * sum(o * i for o, i in kind.linear_shapes.values())
            for kind in self.layer_kinds
        )

    @property
    def num_expert_layers(self) -> int:
        """Count the layers with routed experts."""
        return 0 if self.experts is None else self.num_layers - self.experts.num_dense_layers

    @property
    def num_attention_layers(self) -> int:
        """Count the layers with attention."""
        return self.num_layers - (0 if self.mixer is None else self.mixer.num_layers)

    @property
    def num_expert_parameters(self) -> int:
        """Count the weights of all routed experts, which are frozen."""
        experts = self.experts
        if experts is None:
            return 0
        return self.num_expert_layers * experts.num_experts * experts.num_weights(self.hidden_size)

    @property
    def num_active_expert_parameters(self) -> int:
        """Count the weights of the routed experts that one token passes."""
        if self.experts is None:
            return 0
        return self.num_expert_parameters // self.experts.num_experts * self.experts.num_active

    @property
    def expert_bytes(self) -> int:
        """Return the bytes of all routed experts and their routers while training."""
        if self.experts is None:
            return 0
        return self.num_expert_layers * self.experts.layer_bytes(self.hidden_size)

    @property
    def num_gate_parameters(self) -> int:
        """Count the weights of all linears that never train."""
        count = sum(
            kind.number * sum(o * i for o, i in kind.gate_shapes.values())
            for kind in self.layer_kinds
        )
        if self.layer_embeddings is not None:
            # One linear makes what all layers read of the first embeddings.
            count += self.num_layers * self.layer_embeddings.width * self.hidden_size
        return count

    @property
    def num_embedding_parameters(self) -> int:
        """Return the parameters of embeddings and output head."""
        count = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        if (own := self.layer_embeddings) is not None:
            count += own.vocab_size * own.width * self.num_layers
        return count

    @property
    def num_parameters(self) -> int:
        """Return all parameters: linears, embeddings, norms, biases, experts and routers."""
        hidden = self.hidden_size
        frozen = (
            (2 * self.num_layers + 1) * hidden
            + self.num_attention_layers * self.num_layer_vector_parameters
            + self.num_expert_parameters
            + self.num_gate_parameters
        )
        for layers in self.attention_layers:
            frozen += layers.num_layers * layers.head_dim * (2 if layers.has_keys else 1)
        if self.layer_embeddings is not None:
            frozen += self.num_layers * hidden + self.layer_embeddings.width  # Norms.
        if self.mixer is not None:
            of_layer = math.prod(self.mixer.convolution(hidden)) + self.mixer.num_vectors(hidden)
            frozen += self.mixer.num_layers * of_layer
        if self.experts is not None:
            frozen += self.num_expert_layers * self.experts.num_others(hidden)
        return self.num_linear_parameters + self.num_embedding_parameters + frozen


def _count_vectors(
    config: dict[str, Any], hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int
) -> int:
    kind = config.get("model_type")
    queries = heads * head_dim
    keys = kv_heads * head_dim
    has_bias = config.get("attention_bias", kind == "gpt_oss")
    count = 0
    if kind == "qwen2" or has_bias:
        count += queries + 2 * keys
    if has_bias and kind != "glm4_moe":
        count += hidden
    if kind == "gpt_oss":
        count += heads  # The sinks of attention.
    if config.get("mlp_bias"):
        count += 2 * intermediate + hidden
    has_head_norms = kind == "glm4_moe" and config.get("use_qk_norm")
    if kind in HEAD_NORMS or has_head_norms:
        count += 2 * head_dim
    if kind in ("gemma2", "gemma3_text", "gemma4_text"):
        count += 2 * hidden
    if kind in ("olmo2", "olmo3", "olmoe"):
        count += queries + keys
    return count


def _count_extra_activations(config: dict[str, Any], hidden: int, intermediate: int) -> int:
    match config.get("model_type"):
        case "gemma2" | "gemma3_text":
            return 2 * hidden  # The inputs of two more norms.
        case "gemma4_text":
            own = config.get("hidden_size_per_layer_input", 256) or 0
            return 3 * hidden + 8 * own  # The same, and the way of the layer's own embedding.
        case "lfm2" | "phi3":
            return intermediate  # The activation of gate.
    return 0


def _count(config: dict[str, Any], key: str, most: int, default: int | None = None) -> int:
    value = config[key] if default is None else config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{key} is {_shorten(value)}, and not a whole number from 1 to {most}")
    return value


def _check_numbers(config: dict[str, Any]) -> None:
    for key, value in _numbers(config):
        # NaN is refused as well, since no comparison with it holds.
        if not abs(value) <= MAX_NUMBER:
            raise ValueError(f"{key} is {_shorten(value)}, beyond any that a model has")
    for key in ("rms_norm_eps", "rope_theta"):
        value = config.get(key, 1)
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{key} is {_shorten(value)}, and not a number above 0")
    if config.get("sliding_window") is not None:
        _count(config, "sliding_window", MAX_POSITIONS)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield every number at any depth, with the key that it stands under."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _numbers(child, str(name))
    elif isinstance(value, list):
        for child in value:
            yield from _numbers(child, key)
    elif isinstance(value, int | float):
        yield key, value


def _check_token_ids(config: dict[str, Any], vocabulary: int) -> None:
    """Some configs have -1 where there is none."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_ids = config.get(key)
        if token_ids is None:
            continue
        for value in token_ids if isinstance(token_ids, list) else [token_ids]:
            if type(value) is not int or not -1 <= value < vocabulary:
                raise ValueError(
                    f"{key} is {_shorten(value)}, and not the number of one of {vocabulary} tokens"
                )


def _shorten(value: object) -> str:
    return repr(value)[:40]
