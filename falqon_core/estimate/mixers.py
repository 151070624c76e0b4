"""Token mixers in the place of attention, read from a config.json: gated delta nets (Qwen3.5) and
gated short convolutions (LFM2). Their large linears train; convolutions, decays and gates do not.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

MAX_MIXER_HEADS = 1_024
MAX_MIXER_WIDTH = 8_192
MAX_KERNEL = 64
MAX_MLP_WIDTH = 2**20
# The layer type of each family's mixer, by model_type.
HYBRIDS = {
    "lfm2": "conv",
    "qwen3_5_moe_text": "linear_attention",
    "qwen3_5_text": "linear_attention",
}
ATTENTION_INTERVAL = 4  # Of transformers, where a config names no layers.
CHUNK = 64  # Tokens of a chunk (ops/gated_delta_rule.py).
Count = Callable[..., int]  # (config, key, most, default=None)
Shapes = dict[str, tuple[int, int]]  # [O, I] by name


class GatedDelta(BaseModel):
    """Sizes of the gated delta nets of a model with `num_layers` of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def keys(self) -> int:
        """Return the numbers of a token's keys, and of its queries."""
        return self.num_key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Return the numbers of a token's values."""
        return self.num_value_heads * self.value_dim

    def linear_shapes(self, hidden: int) -> Shapes:
        """Return the linears of a layer that train."""
        return {
            "in_proj_qkv": (2 * self.keys + self.values, hidden),
            "in_proj_z": (self.values, hidden),
            "out_proj": (hidden, self.values),
        }

    def gate_shapes(self, hidden: int) -> Shapes:
        """Return the linears of a layer that stay as they are."""
        return dict.fromkeys(("in_proj_b", "in_proj_a"), (self.num_value_heads, hidden))

    def convolution(self, hidden: int) -> tuple[int, int, int]:
        """Return the shape of a layer's convolution."""
        return 2 * self.keys + self.values, 1, self.kernel

    def num_vectors(self, hidden: int) -> int:
        """Count a layer's further parameters: decays, their biases, and the norm of a head."""
        return 2 * self.num_value_heads + self.value_dim

    def num_kept(self, hidden: int) -> int:
        """Count the bf16 elements of a token that a layer keeps for backward, beside the inputs of
        its linears: their outputs.
        """
        return 2 * self.keys + 2 * self.values + 2 * self.num_value_heads

    def working_bytes(self, hidden: int) -> int:
        """Return the bytes of a token with which a layer computes, in fp32: queries, keys and
        values of each head in several forms, squares of a chunk, and the state before it.
        """
        of_head = 8 * self.key_dim + 8 * self.value_dim + 5 * CHUNK
        of_state = 3 * self.key_dim * self.value_dim // CHUNK
        convolved = 2 * self.kernel * (2 * self.keys + self.values)
        return 4 * (self.num_value_heads * (of_head + of_state) + convolved)

    def flops(self, hidden: int) -> int:
        """Count the operations of a token in a layer's forward pass, linears apart."""
        squares = CHUNK * (3 * self.key_dim + 2 * self.value_dim)
        states = 3 * self.key_dim * self.value_dim
        return 2 * self.num_value_heads * (squares + states)


class ShortConvolution(BaseModel):
    """Sizes of the gated short convolutions of a model with `num_layers` of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int
    kernel: int
    has_biases: bool = False

    def linear_shapes(self, hidden: int) -> Shapes:
        """Return the linears of a layer that train."""
        return {"in_proj": (3 * hidden, hidden), "out_proj": (hidden, hidden)}

    def gate_shapes(self, hidden: int) -> Shapes:
        """Return no linears that stay as they are."""
        return {}

    def convolution(self, hidden: int) -> tuple[int, int, int]:
        """Return the shape of a layer's convolution."""
        return hidden, 1, self.kernel

    def num_vectors(self, hidden: int) -> int:
        """Count a layer's biases: of both linears and of the convolution."""
        return 5 * hidden if self.has_biases else 0

    def num_kept(self, hidden: int) -> int:
        """Count the bf16 elements of a token that a layer keeps for backward, beside the inputs of
        its linears: the output of the first.
        """
        return 3 * hidden

    def working_bytes(self, hidden: int) -> int:
        """Return the bytes of a token with which a layer computes: fp32 products of the kernel, and
        gates.
        """
        return 4 * hidden * (2 * self.kernel + 4)

    def flops(self, hidden: int) -> int:
        """Count the operations of a token in a layer's forward pass, linears apart."""
        return 2 * hidden * (self.kernel + 1)


Mixer = GatedDelta | ShortConvolution


def read_mixer(config: dict[str, Any], num_layers: int, count: Count) -> Mixer | None:
    """Read it from a parsed config.json; None of a model of attention alone. `count` reads one
    bounded number and raises `ValueError` for another value.
    """
    kind = config.get("model_type")
    if kind not in HYBRIDS:
        return None
    number = _layer_types(config, kind, num_layers).count(HYBRIDS[kind])
    if not number:
        return None
    if kind == "lfm2":
        kernel = count(config, "conv_L_cache", MAX_KERNEL, 3)
        return ShortConvolution(
            num_layers=number, kernel=kernel, has_biases=bool(config.get("conv_bias"))
        )
    mixer = GatedDelta(
        num_layers=number,
        num_key_heads=count(config, "linear_num_key_heads", MAX_MIXER_HEADS, 16),
        num_value_heads=count(config, "linear_num_value_heads", MAX_MIXER_HEADS, 32),
        key_dim=count(config, "linear_key_head_dim", MAX_MIXER_WIDTH, 128),
        value_dim=count(config, "linear_value_head_dim", MAX_MIXER_WIDTH, 128),
        kernel=count(config, "linear_conv_kernel_dim", MAX_KERNEL, 4),
    )
    if mixer.num_value_heads % mixer.num_key_heads:
        raise ValueError(
            f"linear_num_value_heads {mixer.num_value_heads} is no multiple of "
            f"linear_num_key_heads {mixer.num_key_heads}"
        )
    return mixer


def read_lfm2(config: dict[str, Any], count: Count) -> dict[str, Any]:
    """Return the width of the MLP of LFM2, and whether its head is tied, as transformers does."""
    most = MAX_MLP_WIDTH
    width = count(config, "block_ff_dim", most, count(config, "intermediate_size", most, 12_288))
    if config.get("block_auto_adjust_ff_dim", True):
        width = 2 * width // 3
        factor = config.get("block_ffn_dim_multiplier", 1.0)
        if factor is not None:
            if not isinstance(factor, int | float) or factor <= 0:
                raise ValueError(f"block_ffn_dim_multiplier is {factor!r:.40}, not above 0")
            step = count(config, "block_multiple_of", most, 256)
            width = -(-int(factor * width) // step) * step
    tied = config.get("tie_embedding", config.get("tie_word_embeddings", True))
    return {"intermediate_size": width, "tie_word_embeddings": tied}


def _layer_types(config: dict[str, Any], kind: str, num_layers: int) -> list[str]:
    """Return the type of each layer, as transformers decides where the config names none."""
    types = config.get("layer_types")
    if types is None and kind == "lfm2":
        attending = config.get("full_attn_idxs")
        attending = range(num_layers) if attending is None else attending
        types = ["full_attention" if layer in attending else "conv" for layer in range(num_layers)]
    elif types is None:
        interval = config.get("full_attention_interval", ATTENTION_INTERVAL)
        if type(interval) is not int or interval < 1:
            raise ValueError(f"full_attention_interval is {interval!r:.40}, and no whole number")
        types = [
            "linear_attention" if (layer + 1) % interval else "full_attention"
            for layer in range(num_layers)
        ]
    if not isinstance(types, list) or len(types) != num_layers:
        raise ValueError(f"layer_types does not name {num_layers} layers")
    return types
