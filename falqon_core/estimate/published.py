"""Dimensions of well-known models, so that a question about a card needs no download.

Each row repeats what the publisher's config.json says; the tests compare the parameters that it
gives with the published count. Of a model that accepts images it is the text decoder.
"""

from collections.abc import Mapping

from falqon_core.contract.model_folder import EXPERT_FORMAT, MXFP4
from falqon_core.estimate.dimensions import ModelDimensions

_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)
_ROWS: dict[str, tuple[object, ...]] = {
    "SmolLM2-135M": ("llama", 576, 1536, 30, 9, 3, 64, 49_152, 8_192, True),
    "SmolLM2-360M": ("llama", 960, 2560, 32, 15, 5, 64, 49_152, 8_192, True),
    "Qwen3-0.6B": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151_936, 40_960, True),
    "Llama-3.2-1B": ("llama", 2048, 8192, 16, 32, 8, 64, 128_256, 131_072, True),
    "LFM2-1.2B": ("lfm2", 2048, 12_288, 16, 32, 8, 64, 65_536, 128_000, True),
    "SmolLM2-1.7B": ("llama", 2048, 8192, 24, 32, 32, 64, 49_152, 8_192, True),
    "Qwen3-1.7B": ("qwen3", 2048, 6144, 28, 16, 8, 128, 151_936, 40_960, True),
    "SmolLM3-3B": ("smollm3", 2048, 11_008, 36, 16, 4, 128, 128_256, 65_536, True),
    "Llama-3.2-3B": ("llama", 3072, 8192, 28, 24, 8, 128, 128_256, 131_072, True),
    "Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151_936, 40_960, True),
    "Qwen3.5-4B": ("qwen3_5_text", 2560, 9216, 32, 16, 4, 256, 248_320, 262_144, True),
    "OLMoE-1B-7B": ("olmoe", 2048, 1024, 16, 16, 16, 128, 50_304, 4_096, False),
    "Gemma-4-E4B": ("gemma4_text", 2560, 10_240, 42, 8, 2, 256, 262_144, 131_072, True),
    "Mistral-7B-v0.3": ("mistral", 4096, 14_336, 32, 32, 8, 128, 32_768, 32_768, False),
    "Llama-3.1-8B": ("llama", 4096, 14_336, 32, 32, 8, 128, 128_256, 131_072, False),
    "Qwen3-8B": ("qwen3", 4096, 12_288, 36, 32, 8, 128, 151_936, 40_960, False),
    "Qwen3.5-9B": ("qwen3_5_text", 4096, 12_288, 32, 16, 4, 256, 248_320, 262_144, False),
    "Olmo-3-7B": ("olmo3", 4096, 11_008, 32, 32, 32, 128, 100_278, 65_536, False),
    "Phi-4": ("phi3", 5120, 17_920, 40, 40, 10, 128, 100_352, 16_384, False),
    "Qwen3-14B": ("qwen3", 5120, 17_408, 40, 40, 8, 128, 151_936, 40_960, False),
    "gpt-oss-20b": ("gpt_oss", 2880, 2880, 24, 64, 8, 64, 201_088, 131_072, False),
    "Qwen3-30B-A3B": ("qwen3_moe", 2048, 6144, 48, 32, 4, 128, 151_936, 40_960, False),
    "Gemma-4-31B": ("gemma4_text", 5376, 21_504, 60, 32, 16, 256, 262_144, 262_144, True),
    "Qwen3.5-35B-A3B": ("qwen3_5_moe_text", 2048, 512, 40, 16, 2, 256, 248_320, 262_144, False),
    "Olmo-3-32B": ("olmo3", 5120, 27_648, 64, 40, 8, 128, 100_278, 65_536, False),
    "Qwen3-32B": ("qwen3", 5120, 25_600, 64, 64, 8, 128, 151_936, 40_960, False),
    "Llama-3.3-70B": ("llama", 8192, 28_672, 80, 64, 8, 128, 128_256, 131_072, False),
    "GLM-4.5-Air": ("glm4_moe", 4096, 10_944, 46, 96, 8, 128, 151_552, 131_072, False),
    "gpt-oss-120b": ("gpt_oss", 2880, 2880, 36, 64, 8, 64, 201_088, 131_072, False),
    "Qwen3-235B-A22B": ("qwen3_moe", 4096, 12_288, 94, 64, 4, 128, 151_936, 40_960, False),
}
# Further fields: of mixtures experts, those of a token, and their width; of hybrids the layers with
# attention. Sizes of token mixers are the defaults.
_FURTHER: dict[str, dict[str, object]] = {
    "LFM2-1.2B": {"full_attn_idxs": [2, 5, 8, 10, 12, 14]},
    "Gemma-4-E4B": {"num_kv_shared_layers": 18},
    "Gemma-4-31B": {
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 4,
        "hidden_size_per_layer_input": 0,
    },
    "OLMoE-1B-7B": {"num_experts": 64, "num_experts_per_tok": 8},
    "gpt-oss-20b": {
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        EXPERT_FORMAT: MXFP4,
    },
    "Qwen3-30B-A3B": {
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "Qwen3.5-35B-A3B": {
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
    },
    "GLM-4.5-Air": {
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "attention_bias": True,
    },
    "gpt-oss-120b": {
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        EXPERT_FORMAT: MXFP4,
    },
    "Qwen3-235B-A22B": {
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1536,
    },
}

PUBLISHED_MODELS: Mapping[str, ModelDimensions] = {
    name: ModelDimensions.from_config(dict(zip(_FIELDS, row, strict=True)) | _FURTHER.get(name, {}))
    for name, row in _ROWS.items()
}
