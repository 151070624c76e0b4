"""Which models of transformers are decoders that training knows, by their modules."""

import json
from pathlib import Path
from typing import Any

import pytest

from falqon_core.contract.errors import ModelError
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.importers.decoder import build_decoder

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def build(folder: Path, **config: Any) -> Any:
    (folder / "config.json").write_text(json.dumps(SIZES | config))
    return build_decoder(folder, ModelDimensions.from_config(SIZES | config))


@pytest.mark.parametrize(
    "kind",
    ["llama", "seed_oss", "helium", "cohere", "ministral", "lfm2", "qwen3_5_text", "gemma4_text"],
)
def test_decoders_of_the_known_linears_are_built(kind: str, tmp_path: Path) -> None:
    tied = kind in ("cohere", "gemma4_text")
    model = build(tmp_path, model_type=kind, tie_word_embeddings=tied, head_dim=8)
    assert model.device.type == "meta"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "nothing_of_the_kind"}, "no model that can be built"),
        ({"model_type": "t5"}, "no decoder of attention layers"),
        ({"model_type": "mamba"}, "no decoder of attention layers"),
        ({"model_type": "jamba"}, "no decoder of attention layers"),
        ({"model_type": "qwen3_next"}, "no decoder of attention layers"),
        ({"model_type": "qwen3_5_text", "layer_types": ["conv", "full_attention"]}, "type 'conv'"),
        ({"model_type": "gpt2"}, "its decoder layers are not one list"),
        ({"model_type": "phi"}, "its output head is no linear layer without a bias"),
        ({"model_type": "starcoder2", "tie_word_embeddings": True}, "layer 0 has the linears"),
        ({"model_type": "llama", "architectures": ["Qwen2ForCausalLM"]},
         r"of a llama model it is \['LlamaForCausalLM'\]"),
        ({"model_type": "cohere"}, "whether its head is tied"),
        ({"model_type": "llama", "layer_types": ["chunked_attention"] * 2}, "'chunked_attention'"),
        ({"model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv"),
        ({"model_type": "mixtral", "num_local_experts": 1}, "no nn.Linear"),
    ],
)  # fmt: skip
def test_models_that_are_no_known_decoders_are_refused_with_the_reason(
    config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        build(tmp_path, **config)
