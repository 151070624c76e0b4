"""Tiny models of random weights, one per architecture that the project names."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from falqon_core.meld.packed_weight import Fp8Weight, PackedWeight
from falqon_core.meld.row_shard import RowShard
from falqon_core.ops import attention

# 40 and 56 are no multiples of 16.
SIZES = {
    "vocab_size": 97,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "smollm": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=6),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
}
# The same with sizes that FP8 GEMMs take.
ALIGNED = {"hidden_size": 48, "intermediate_size": 64, "head_dim": 12}
EIGHT_TOKENS = GenerationConfig(
    max_new_tokens=8,
    min_new_tokens=8,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=2,
    bos_token_id=1,
)


def fp8_weight(
    sizes: Sequence[int], rank: int, like: Tensor, simulate_fp8: bool, shard: RowShard, *_: None
) -> PackedWeight:
    """Stands in for `linear.new_packed_weight`: the storage of an FP8 GPU, whose operators run as
    oracles on a CPU.
    """
    return Fp8Weight(sizes, like.shape[1], rank, like.device, fp8=True, shard=shard)


def tiny_model(
    name: str,
    dtype: torch.dtype = torch.bfloat16,
    attn_implementation: str = attention.ATTENTION_NAME,
    **sizes: int,
) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS[name].__class__(**CONFIGS[name].to_dict() | sizes)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=attn_implementation
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # biases start at zero and norms at one, which would hide their loss
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
