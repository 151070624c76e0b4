"""Dimensions of well-known dense models, so that a question about a card needs no download.

Each row repeats what the publisher's config.json says; the tests compare the parameters that it
gives with the published count.
"""

from collections.abc import Mapping

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
    "SmolLM2-1.7B": ("llama", 2048, 8192, 24, 32, 32, 64, 49_152, 8_192, True),
    "Qwen3-1.7B": ("qwen3", 2048, 6144, 28, 16, 8, 128, 151_936, 40_960, True),
    "SmolLM3-3B": ("smollm3", 2048, 11_008, 36, 16, 4, 128, 128_256, 65_536, True),
    "Llama-3.2-3B": ("llama", 3072, 8192, 28, 24, 8, 128, 128_256, 131_072, True),
    "Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151_936, 40_960, True),
    "Mistral-7B-v0.3": ("mistral", 4096, 14_336, 32, 32, 8, 128, 32_768, 32_768, False),
    "Llama-3.1-8B": ("llama", 4096, 14_336, 32, 32, 8, 128, 128_256, 131_072, False),
    "Qwen3-8B": ("qwen3", 4096, 12_288, 36, 32, 8, 128, 151_936, 40_960, False),
    "Phi-4": ("phi3", 5120, 17_920, 40, 40, 10, 128, 100_352, 16_384, False),
    "Qwen3-14B": ("qwen3", 5120, 17_408, 40, 40, 8, 128, 151_936, 40_960, False),
    "Qwen3-32B": ("qwen3", 5120, 25_600, 64, 64, 8, 128, 151_936, 40_960, False),
    "Llama-3.3-70B": ("llama", 8192, 28_672, 80, 64, 8, 128, 128_256, 131_072, False),
}

PUBLISHED_MODELS: Mapping[str, ModelDimensions] = {
    name: ModelDimensions.from_config(dict(zip(_FIELDS, row, strict=True)))
    for name, row in _ROWS.items()
}
