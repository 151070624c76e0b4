"""Gemma 4 as llama.cpp has it: layers with a window and without one, whose heads have sizes of
their own; keys and values of earlier layers; embeddings of each layer.

In layers without a window a part of each head is not rotated. llama.cpp rotates every pair, so the
frequencies of these are divided by a number that leaves nothing of them.
"""

from typing import Any

import torch
from gguf import GGUFWriter, TokenType
from torch import Tensor
from transformers import AutoConfig

FAMILY = "gemma4_text"
TOKENIZER = "gemma4"
# llama.cpp's names of modules, by those within a layer or outside of all.
NAMES = {
    "pre_feedforward_layernorm": "ffn_norm",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
}
# The same of parameters that no module has a weight for.
PARAMETERS = {".layer_scalar": "layer_output_scale.weight"}
ROTATED = "rope_freqs.weight"
NOTHING_LEFT = 1e30
# Special tokens that llama.cpp's parser of chats has to see in an answer.
SHOWN_TOKENS = frozenset(
    {
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        '<|"|>',
    }
)
BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def add_layers(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Write what differs by layer; `config` has transformers' defaults."""
    described = AutoConfig.for_model(**config)
    kinds = described.layer_types
    layers = [described.per_layer_config[index] for index in range(len(kinds))]
    writer.add_sliding_window(described.sliding_window)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])
    writer.add_shared_kv_layers(described.num_kv_shared_layers)
    writer.add_embedding_length_per_layer_input(described.hidden_size_per_layer_input or 0)
    writer.add_head_count_kv([layer.num_key_value_heads for layer in layers])
    width = described.intermediate_size
    num_own = len(kinds) - described.num_kv_shared_layers
    is_wider = [described.use_double_wide_mlp and index >= num_own for index in range(len(kinds))]
    writer.add_feed_forward_length([2 * width if is_wide else width for is_wide in is_wider])
    full, local = (_head_dim(config, kind) for kind in ("full_attention", "sliding_attention"))
    writer.add_key_length(full)
    writer.add_value_length(full)
    writer.add_rope_dimension_count(full)
    writer.add_key_length_swa(local)
    writer.add_value_length_swa(local)
    writer.add_rope_dimension_count_swa(local)
    rope = described.rope_parameters
    writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if described.final_logit_softcapping:
        writer.add_final_logit_softcapping(described.final_logit_softcapping)


def rotated(config: dict[str, Any]) -> Tensor:
    """Return what llama.cpp divides the frequencies of layers without a window by, fp32 [d / 2]."""
    half = _head_dim(config, "full_attention") // 2
    share = config["rope_parameters"]["full_attention"].get("partial_rotary_factor", 1.0)
    factors = torch.full((half,), NOTHING_LEFT)
    factors[: int(share * half)] = 1.0
    return factors


def _head_dim(config: dict[str, Any], kind: str) -> int:
    described = AutoConfig.for_model(**config)
    if kind not in described.layer_types:
        return int(described.head_dim)
    return int(described.per_layer_config[described.layer_types.index(kind)].head_dim)


def shown(text: str, kind: int) -> str:
    """Return the text of a token as llama.cpp has it, which puts spaces into ordinary ones only."""
    return text.replace("▁", " ") if kind == TokenType.USER_DEFINED else text


def token_type(text: str, is_added: bool, is_special: bool) -> TokenType:
    """Return the type of a token of the tokenizer that Gemma publishes."""
    if is_added:
        is_shown = text in SHOWN_TOKENS or not is_special
        return TokenType.USER_DEFINED if is_shown else TokenType.CONTROL
    return TokenType.BYTE if text in BYTE_TOKENS else TokenType.NORMAL
