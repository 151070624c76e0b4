import json
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)  # fmt: skip

from falqon_core.contract.errors import ModelError
from falqon_core.estimate.dimensions import ModelDimensions

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 80, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, tie_word_embeddings=True),
        LlamaConfig(**SIZES, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
        MistralConfig(**SIZES, head_dim=16),
        Qwen2Config(**SIZES, tie_word_embeddings=True),
        Qwen3Config(**SIZES, head_dim=16),
        Qwen3Config(**SIZES, head_dim=16, attention_bias=True),
    ],
    ids=lambda config: f"{config.model_type}-{config.tie_word_embeddings}-{getattr(config, 'attention_bias', False)}",
)
def test_counts_are_those_of_the_real_model(config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linears = {
        name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    }

    dimensions = ModelDimensions.from_config(json.loads(config.to_json_string()))

    assert dimensions.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert dimensions.num_linear_parameters == sum(linear.weight.numel() for linear in linears.values())
    assert dimensions.linear_shapes == {
        name.rpartition(".")[2]: tuple(linear.weight.shape) for name, linear in linears.items() if ".layers.0." in name
    }
    a, b = dimensions.num_adapter_parameters(8)
    assert a == sum(8 * linear.in_features for linear in linears.values())
    assert b == sum(8 * linear.out_features for linear in linears.values())


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"num_attention_heads": 0}, {"vocab_size": "many"}, {"intermediate_size": [1]}])
def test_what_is_no_decoder_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="no supported decoder"):
        ModelDimensions.from_config(SIZES | change)
    with pytest.raises(ModelError, match="no supported decoder"):
        ModelDimensions.from_config({"model_type": "t5"})
