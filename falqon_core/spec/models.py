"""Dimensions and parameter counts of a base model, read from its config.json.

Covers decoder-only models whose layers are q, k, v, o and gate, up, down projections (Llama, Mistral, Qwen2, Qwen3, SmolLM).
What is given up: mixtures of experts and other layer shapes are refused here, although `convert_to_melded` may cope with them.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from falqon_core.spec.errors import ModelError


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
    num_layer_vector_parameters: int = 0  # biases and query-key norms of one layer, beside its two norms

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """From the parsed config.json. Raises `ModelError` when a size is missing."""
        try:
            heads = int(config["num_attention_heads"])
            hidden = int(config["hidden_size"])
            kv_heads = int(config.get("num_key_value_heads") or heads)
            head_dim = int(config.get("head_dim") or hidden // heads)
            intermediate = int(config["intermediate_size"])
            vectors = 0
            if config.get("model_type") == "qwen2" or config.get("attention_bias"):
                vectors += (heads + 2 * kv_heads) * head_dim
            if config.get("attention_bias"):
                vectors += hidden
            if config.get("mlp_bias"):
                vectors += 2 * intermediate + hidden
            if config.get("model_type") == "qwen3":
                vectors += 2 * head_dim
            return cls(
                hidden_size=hidden,
                intermediate_size=intermediate,
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                vocab_size=int(config["vocab_size"]),
                max_position_embeddings=int(config["max_position_embeddings"]),
                tied_embeddings=bool(config.get("tie_word_embeddings", False)),
                num_layer_vector_parameters=vectors,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(f"config.json describes no supported decoder: {type(error).__name__} at {error}", "model") from None

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """[O, I] of each linear of one layer."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        h, i = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q),
            "gate_proj": (i, h), "up_proj": (i, h), "down_proj": (h, i),
        }  # fmt: skip

    @property
    def num_linear_parameters(self) -> int:
        """Weights of all decoder linears, the part that is quantized and melded."""
        return self.num_layers * sum(o * i for o, i in self.linear_shapes.values())

    @property
    def num_embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def num_parameters(self) -> int:
        vectors = self.num_layers * (2 * self.hidden_size + self.num_layer_vector_parameters) + self.hidden_size
        return self.num_linear_parameters + self.num_embedding_parameters + vectors

    def num_adapter_parameters(self, rank: int) -> tuple[int, int]:
        """Elements of all A [rank, I] and of all B [O, rank]."""
        shapes = self.linear_shapes.values()
        return self.num_layers * rank * sum(i for _, i in shapes), self.num_layers * rank * sum(o for o, _ in shapes)
