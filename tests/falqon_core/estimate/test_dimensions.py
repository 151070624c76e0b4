import json
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)  # fmt: skip

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import GATE_LINEARS
from falqon_core.estimate.adapter import adapter_size
from falqon_core.estimate.dimensions import CONFIG_DEFAULTS, FUSED_MODEL_TYPES, ModelDimensions
from tests.falqon_core.families.models import FAMILIES

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 80, "max_position_embeddings": 64,
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
        *FAMILIES.values(),
    ],
    ids=lambda config: f"{config.model_type}-{config.tie_word_embeddings}",
)
def test_counts_are_those_of_the_real_model(config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.rpartition(".")[2] not in GATE_LINEARS | {"lm_head"}
    }

    dimensions = ModelDimensions.from_config(json.loads(config.to_json_string()))

    experts = [p for name, p in model.named_parameters() if ".experts." in name and p.dim() == 3]
    assert dimensions.num_expert_parameters == sum(parameter.numel() for parameter in experts)
    assert dimensions.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert dimensions.num_linear_parameters == sum(
        linear.weight.numel() for linear in linears.values()
    )
    assert dimensions.linear_shapes == {
        name.rpartition(".")[2]: tuple(linear.weight.shape)
        for name, linear in sorted(linears.items(), key=lambda item: -item[1].weight.numel())
    }
    size = adapter_size(dimensions, Recipe(rank=8, method="lora"))
    assert size.trained_a == sum(8 * linear.in_features for linear in linears.values())
    assert size.b_of_trained == sum(8 * linear.out_features for linear in linears.values())
    assert size.frozen_a == size.b_of_frozen == 0


@pytest.mark.parametrize(
    ("hidden", "intermediate", "layers", "heads", "millions"),
    [(4096, 11008, 32, 32, 89.31), (5120, 13824, 40, 40, 139.88)],
)
def test_adapters_over_groups_are_counted_as_the_paper_counts_them(
    hidden: int, intermediate: int, layers: int, heads: int, millions: float
) -> None:
    """QA-LoRA's trained parameters of LLaMA-7B and 13B, rank 64 and groups of 32."""
    llama = SIZES | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": 128,
    }
    recipe = Recipe(rank=64, method="qa_lora", group_size=32)
    size = adapter_size(ModelDimensions.from_config(llama), recipe)
    assert size.trained / 1e6 == pytest.approx(millions, abs=0.005)
    assert size.kept_inputs == 0


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": None},
        {"num_attention_heads": 0},
        {"vocab_size": "many"},
        {"intermediate_size": [1]},
    ],
)
def test_a_config_of_no_decoder_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="no supported decoder"):
        ModelDimensions.from_config(SIZES | change)
    with pytest.raises(ModelError, match="no supported decoder"):
        ModelDimensions.from_config({"model_type": "t5"})


@pytest.mark.parametrize(
    "kind", [*CONFIG_DEFAULTS, *FUSED_MODEL_TYPES, "granite", "llama", "olmo2", "olmo3"]
)
def test_what_a_config_does_not_say_is_what_transformers_takes(kind: str) -> None:
    plain = AutoConfig.for_model(kind).per_layer_config[0]
    config = {
        key: size for key, size in SIZES.items() if key not in ("num_key_value_heads", "head_dim")
    } | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

    dimensions = ModelDimensions.from_config(
        config | {"model_type": kind, "hidden_size": 64, "num_attention_heads": 32}
    )

    assert dimensions.num_kv_heads == plain.num_key_value_heads
    assert dimensions.head_dim == (
        plain.head_dim if "head_dim" in CONFIG_DEFAULTS.get(kind, {}) else 2
    )
    assert dimensions.tied_embeddings == plain.tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"num_hidden_layers": -1},
            "num_hidden_layers is -1, and not a whole number from 1 to 512",
        ),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 3.0}, "num_hidden_layers is 3.0"),
        ({"num_attention_heads": 0, "head_dim": 8}, "num_attention_heads is 0"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "hidden_size 32 is no multiple"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"num_key_value_heads": -2}, "num_key_value_heads is -2"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"head_dim": 2**14}, "head_dim is 16384"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"intermediate_size": 2**21}, "intermediate_size is 2097152"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776"),
        ({"max_position_embeddings": 2**30}, "max_position_embeddings is 1073741824"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"rope_scaling": {"factor": float("nan")}}, "factor is nan"),
        ({"anything": [{"deep": -(2**41)}]}, "deep is -2199023255552"),
        ({"pad_token_id": 80}, "pad_token_id is 80"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id is '2'"),
        ({"model_type": ["llama"]}, "unhashable"),
        ({"model_type": "lfm2", "block_ffn_dim_multiplier": "9"}, "multiplier is '9'"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 4}, "layers is 4, with 3 layers"),
        ({"model_type": "gemma4_text", "global_head_dim": 15}, "no pairs to rotate"),
        ({"model_type": "gemma4_text", "per_layer_config": [1]}, "is no JSON object"),
        ({"model_type": "gemma4_text", "vocab_size_per_layer_input": 79}, "less than vocab_size"),
        ({"model_type": "lfm2", "block_multiple_of": 0}, "block_multiple_of is 0"),
        ({"model_type": "qwen3_5_text", "layer_types": ["full_attention"]}, "not name 3 layers"),
        ({"model_type": "qwen3_5_text", "full_attention_interval": 0}, "interval is 0"),
        ({"model_type": "qwen3_5_text", "linear_num_value_heads": 24}, "24 is no multiple of"),
        ({"model_type": "qwen3_5_text", "linear_conv_kernel_dim": 2**20}, "kernel_dim is 1048576"),
    ],
)  # fmt: skip
def test_every_number_is_bounded(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        ModelDimensions.from_config(SIZES | change)
