"""The two blocks of a decoder layer whose linears read the same input: attention (q, k, v) and the
MLP (gate, up).

They stand in for those of the known architectures so that such linears are called together, one
GEMM instead of three or two; all else is as in transformers' modules, with their attention
functions, caches and names of parameters. Linears that are not melded, or not all of them, are
called one by one. What is given up: attention dropout, for training runs without dropout anyway.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from falqon_core.meld.linear import MeldedLinear, call_together
from falqon_core.meld.rotary import rotate
from falqon_core.ops.rotary import rotate_pair
from falqon_core.ops.swiglu import swiglu
from falqon_core.ops.swiglu_codes import rounded_swiglu

ATTENTIONS = {
    "GraniteAttention",
    "GraniteMoeAttention",
    "LlamaAttention",
    "MistralAttention",
    "Qwen2Attention",
    "Qwen3Attention",
    "Qwen3MoeAttention",
}
GATED_MLPS = {
    "Gemma2MLP",
    "Gemma3MLP",
    "Gemma4TextMLP",
    "Glm4MoeMLP",
    "GraniteMLP",
    "LlamaMLP",
    "Ministral3MLP",
    "MistralMLP",
    "Olmo2MLP",
    "Olmo3MLP",
    "Qwen2MLP",
    "Qwen3MLP",
    "Qwen3_5MLP",
    "Qwen3_5MoeMLP",
    "Qwen3MoeMLP",
    "SmolLM3MLP",
}


class Attention(nn.Module):
    """hidden_states [B, T, H] -> ([B, T, H], attention weights or None)."""

    shared_input: ClassVar = ("q_proj", "k_proj", "v_proj")

    def __init__(self, original: nn.Module) -> None:
        """`original` is one of `ATTENTIONS`; its children move here."""
        super().__init__()
        for name, child in original.named_children():
            self.add_module(name, child)
        self.config = original.config
        self.layer_idx = original.layer_idx
        self.head_dim = original.head_dim
        self.scaling = original.scaling
        self.num_key_value_groups = original.num_key_value_groups
        self.is_causal = True
        # Qwen decides by layer, Mistral reads its config in forward, Llama has no window.
        in_config = type(original).__name__ == "MistralAttention"
        self.sliding_window: int | None = getattr(
            original.config if in_config else original, "sliding_window", None
        )

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Return the layer's attention of hidden_states [B, T, H], and the weights or None."""
        return self.attend(
            call_together(hidden_states, self.q_proj, self.k_proj, self.v_proj), **kwargs
        )

    def attend(
        self, projected: Sequence[Tensor], position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Compute all that follows the projections [B, T, ..] to query, key and value."""
        rotated = self.rotate(projected, position_embeddings)
        output, weights = self.mix(*rotated, **kwargs)
        return self.o_proj(output), weights

    def rotate(
        self, projected: Sequence[Tensor], position_embeddings: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return query and key, normed where the architecture does that and rotated, and value, [B,
        heads, T, D], of their projections [B, T, ..].
        """
        # [B, T, heads, D]; key and value may have fewer heads than query.
        query, key, value = (y.unflatten(-1, (-1, self.head_dim)) for y in projected)
        if hasattr(self, "q_norm"):
            query = self.q_norm(query)
            key = self.k_norm(key)
        if query.device.type == "cpu":
            query, key = rotate_pair(
                query.transpose(1, 2), key.transpose(1, 2), *position_embeddings
            )
            return query, key, value.transpose(1, 2)
        query, key = (rotate(heads, *position_embeddings).transpose(1, 2) for heads in (query, key))
        return query, key, value.transpose(1, 2)

    def mix(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the heads' outputs, side by side [B, T, ..], and the attention weights or None;
        query, key, value [B, heads, T, D].

        `past_key_values` is the name of `cache` in older versions of transformers.
        """
        cache = past_key_values if cache is None else cache
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            dropout=0.0,
            **kwargs,
        )
        return output.flatten(2), weights


class GatedMlp(nn.Module, ABC):
    """x [..., H] -> down(gated(gate(x), up(x))) [..., H]."""

    shared_input: ClassVar = ("gate_proj", "up_proj")

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj = gate_proj
        self.up_proj = up_proj
        self.down_proj = down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Return down(gated) [.., H] of x [.., H]."""
        return self.down_proj(self.gated(*call_together(x, self.gate_proj, self.up_proj)))

    @abstractmethod
    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return activation(gate) * up, of which only gate and up are kept for backward."""


class SwiGLU(GatedMlp):
    """The gated MLP with silu."""

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) * up [.., I]; gate and up are kept as codes where activations are
        rounded to them.
        """
        gate_proj = self.gate_proj
        if isinstance(gate_proj, MeldedLinear) and gate_proj.packed.rounds_activations:
            return rounded_swiglu(gate, up)
        return swiglu(gate, up)


class ActivatedMlp(GatedMlp):
    """A gated MLP with any other activation, computed again in backward."""

    def __init__(
        self,
        gate_proj: nn.Module,
        up_proj: nn.Module,
        down_proj: nn.Module,
        activation: nn.Module,
    ) -> None:
        super().__init__(gate_proj, up_proj, down_proj)
        self.activation = activation

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return activation(gate) * up [.., I] under checkpointing."""
        return recompute_in_backward(self._product, gate, up)

    def _product(self, gate: Tensor, up: Tensor) -> Tensor:
        return cast(Tensor, self.activation(gate)) * up


def recompute_in_backward(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), of which only the inputs are kept for backward."""
    return cast(
        Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    )
