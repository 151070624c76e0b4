"""Names of tensors in a GGUF, and the order of its rows, for the decoders that we read."""

import re

import numpy as np

from falqon_core.contract.errors import ModelError

OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def name_of(gguf_name: str) -> str:
    """Return the full name of a weight or bias. Raises `ModelError`."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", gguf_name)
    if match is not None:
        layer, part, kind = match.groups()
        if layer is None and part in OUTER_NAMES:
            return f"{OUTER_NAMES[part]}.{kind}"
        if layer is not None and part in LAYER_NAMES:
            return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"
    raise ModelError(f"the GGUF file has a tensor {gguf_name!r} that no supported decoder has")


def rotary_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of each head from interleaved pairs (0, 1, 0, 1, ...) to halves (0, 0, ..., 1,
    1, ...); [O, I] or [O].
    """
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
