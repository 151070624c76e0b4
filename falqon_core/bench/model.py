"""A Llama of random weights, made on the device that trains it.

It is built without memory (torch's meta device) and filled parameter by parameter where it will
live, so that 7B parameters never pass through the host. Weights are normal with deviation
1/sqrt(inputs) and norms are one: speed does not depend on what a model knows, only on numbers
staying finite. Its losses mean nothing.
"""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.ops import attention


def llama_7b() -> LlamaConfig:
    """Return the dimensions of Llama-7B, the first of the name: 6.7 billion parameters."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )


def random_model(config: LlamaConfig, device: torch.device) -> PreTrainedModel:
    """Return a model in bf16, frozen, in eval mode, with our attention; always the same weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention.ATTENTION_NAME
        )
    model.to_empty(device=device)
    decoder = model.base_model
    # Rotary frequencies are computed, not loaded.
    decoder.rotary_emb = type(decoder.rotary_emb)(config).to(device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    return model.eval().requires_grad_(False)


def dimensions_of(config: LlamaConfig) -> ModelDimensions:
    """Return the sizes of a Llama's config."""
    return ModelDimensions.from_config(config.to_dict())
