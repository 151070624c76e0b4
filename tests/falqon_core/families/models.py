"""One small model of random weights per family that docs/models.md lists, with all that sets it
apart: windows shorter than the records, caps low enough to bend, scales far from one.
"""

import copy
import shutil
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    Lfm2Config,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from falqon_core.ops.experts import WEIGHTS

SIZES = {
    "vocab_size": 960,  # of falqon-tiny, whose tokenizer they take
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 7}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.0, 2.0, 4.0],
    "partial_rotary_factor": 0.5,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
DELTA_NET = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 24,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "Llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "Mistral": MistralConfig(**SIZES, head_dim=16, sliding_window=7),
    "Qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "Qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "Qwen3.5": Qwen3_5TextConfig(**SIZES, **DELTA_NET, head_dim=16, tie_word_embeddings=True),
    "Gemma 2": Gemma2Config(
        **SIZES, **GEMMA, final_logit_softcapping=4.0, attn_logit_softcapping=2.0
    ),
    "Gemma 3": Gemma3TextConfig(**SIZES, **GEMMA),
    "Gemma 4": Gemma4TextConfig(
        **SIZES | {"num_hidden_layers": 4},
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=7,
        head_dim=16,
        global_head_dim=24,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=960,
        final_logit_softcapping=4.0,
    ),
    "Gemma 4, keys as values": Gemma4TextConfig(
        **SIZES,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=7,
        head_dim=16,
        global_head_dim=24,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
    ),
    "Phi-3": Phi3Config(**SIZES, sliding_window=7),
    "Phi-4 mini": Phi3Config(
        **SIZES,
        tie_word_embeddings=True,
        original_max_position_embeddings=24,
        rope_parameters=LONGROPE,
    ),
    "OLMo 2": Olmo2Config(**SIZES),
    "OLMo 3": Olmo3Config(
        **SIZES,
        sliding_window=7,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": YARN,
        },
    ),
    "Ministral 3": Ministral3Config(
        **SIZES,
        head_dim=16,
        sliding_window=7,
        rope_parameters=YARN | {"llama_4_scaling_beta": 0.5, "max_position_embeddings": 256},
    ),
    "SmolLM3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
    "LFM2": Lfm2Config(
        **SIZES, layer_types=["conv", "full_attention"], block_multiple_of=16, conv_bias=True
    ),
    "Granite": GraniteConfig(
        **SIZES,
        embedding_multiplier=3.0,
        logits_scaling=2.5,
        residual_multiplier=0.7,
        attention_multiplier=0.2,
        tie_word_embeddings=True,
    ),
    "Qwen3.5 MoE": Qwen3_5MoeTextConfig(
        **SIZES | {"intermediate_size": 24},
        **DELTA_NET,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=32,
    ),
    "Qwen3 MoE": Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=16, moe_intermediate_size=24),
    "Qwen3 MoE, the first layer dense": Qwen3MoeConfig(
        **SIZES, **EXPERTS, head_dim=16, moe_intermediate_size=24, mlp_only_layers=[0]
    ),
    "OLMoE": OlmoeConfig(**SIZES, **EXPERTS),
    "Granite MoE": GraniteMoeConfig(
        **SIZES,
        **EXPERTS,
        embedding_multiplier=3.0,
        logits_scaling=2.5,
        residual_multiplier=0.7,
        attention_multiplier=0.2,
        tie_word_embeddings=True,
    ),
    "GLM-4.5": Glm4MoeConfig(
        **SIZES,
        num_experts_per_tok=2,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        routed_scaling_factor=1.5,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
        head_dim=16,
        use_qk_norm=True,
        attention_bias=True,
    ),
    "gpt-oss": GptOssConfig(
        **SIZES,
        **EXPERTS,
        head_dim=16,
        sliding_window=7,
        rope_parameters=YARN | {"truncate": False},
    ),
    "gpt-oss, MXFP4": GptOssConfig(
        **SIZES | {"hidden_size": 64, "intermediate_size": 32},
        **EXPERTS,
        head_dim=16,
        sliding_window=7,
        rope_parameters=YARN | {"truncate": False},
        expert_format="mxfp4",
    ),
}


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    # a model writes into its config which implementations it takes
    config = copy.deepcopy(config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # biases start at zero and norms at one, which would hide their loss
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if getattr(config, "expert_format", None):
            for module in model.modules():
                for name in WEIGHTS if hasattr(module, "_apply_gate") else ():
                    round_to_mxfp4_(module.get_parameter(name).transpose(1, 2))
    return model


def round_to_mxfp4_(weights: torch.Tensor) -> None:
    """Round in place to what MXFP4 holds, by rows [.., I] in blocks of 32."""
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    blocks = weights.float().unflatten(-1, (-1, 32))
    scale = torch.exp2((blocks.abs().amax(-1, keepdim=True) / 6).log2().ceil())
    nearest = ((blocks / scale).abs()[..., None] - grid).abs().argmin(-1)
    weights.copy_((grid[nearest] * blocks.sign() * scale).flatten(-2))


def write_model(config: PreTrainedConfig, tiny: Path, folder: Path) -> None:
    """Write a model folder with the tokenizer of falqon-tiny."""
    random_model(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny / name, folder / name)
