import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CompressedTensorsConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)  # fmt: skip

from falqon_core.export.trained import export_trained
from tests.falqon_core.export.conftest import CodesAndScale, quantize_linears

# transformers says so whenever a loader option such as `dequantize` is passed for a checkpoint that
# is quantized already.
pytestmark = pytest.mark.filterwarnings(
    "ignore:You passed `quantization_config` or equivalent parameters:UserWarning"
)


@pytest.fixture
def tokenizer(tiny_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture
def model(tiny_folder: Path) -> PreTrainedModel:
    return quantize_linears(AutoModelForCausalLM.from_pretrained(tiny_folder))


def codes_and_scales(model: PreTrainedModel) -> dict[str, CodesAndScale]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, CodesAndScale)
    }


def test_the_tensors_are_codes_scales_and_bf16(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    export_trained(model, tokenizer, tmp_path / "out")

    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for name, module in codes_and_scales(model).items():
        assert torch.equal(
            tensors.pop(f"{name}.weight").view(torch.uint8), module.qdata.view(torch.uint8)
        )
        scale = tensors.pop(f"{name}.weight_scale")
        assert torch.equal(scale, module.scale)
        assert scale.shape == (module.qdata.shape[0], 1)
        assert scale.dtype == torch.float32
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    norms = {"input_layernorm", "post_attention_layernorm"}
    assert set(tensors) == {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{layer}.{norm}.weight" for layer in range(2) for norm in norms
    }


def test_the_checkpoint_serves_with_quantized_activations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    export_trained(model, tokenizer, tmp_path / "out")

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "out")

    for name, module in codes_and_scales(model).items():
        linear = loaded.get_submodule(name)
        assert torch.equal(linear.weight.view(torch.uint8), module.qdata.view(torch.uint8))
        assert torch.equal(linear.weight_scale, module.scale)
        assert linear.quantization_scheme.input_activations.dynamic is True
    prompt = reloaded.apply_chat_template(
        [{"role": "user", "content": "Where is the shop?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        served = loaded(**prompt).logits
        emulated = model.float()(**prompt).logits
    assert torch.nn.functional.cosine_similarity(served, emulated, dim=-1).min() > 0.9999
    assert (
        loaded.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1]
        > prompt["input_ids"].shape[1]
    )


def test_the_configuration_is_the_documented_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    export_trained(model, tokenizer, tmp_path / "out")

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = config["quantization_config"]
    group = quantization["config_groups"]["group_0"]
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "bfloat16"
    assert not any(key.startswith("_") for key in config)
    expected = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
    }
    assert {key: quantization[key] for key in expected} == expected
    assert (group["targets"], group["output_activations"]) == (["Linear"], None)
    assert (group["weights"]["strategy"], group["weights"]["dynamic"]) == ("channel", False)
    assert (group["input_activations"]["strategy"], group["input_activations"]["dynamic"]) == (
        "token",
        True,
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "model.safetensors",
    }


def test_bias_untied_head_and_unquantized_linears(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=960,
        tie_word_embeddings=False, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    base = Qwen2ForCausalLM(config)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = quantize_linears(base, leave=("lm_head", "down_proj"))

    export_trained(model, tokenizer, tmp_path / "out")

    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["quantization_config"]["ignore"] == ["model.layers.0.mlp.down_proj", "lm_head"]
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        quantization_config=CompressedTensorsConfig(dequantize=True),
        output_loading_info=True,
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    attention = loaded.model.layers[0].self_attn
    assert torch.equal(attention.q_proj.bias, base.model.layers[0].self_attn.q_proj.bias.bfloat16())
    assert torch.equal(loaded.lm_head.weight, base.lm_head.weight.bfloat16())
    assert torch.equal(
        loaded.model.layers[0].mlp.down_proj.weight,
        base.model.layers[0].mlp.down_proj.weight.bfloat16(),
    )


def test_large_checkpoints_are_sharded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    export_trained(model, tokenizer, tmp_path / "out", max_shard_size="60KB")
    export_trained(model, tokenizer, tmp_path / "whole")

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())[
        "weight_map"
    ]
    assert len(set(index.values())) > 1
    for name, shard in index.items():
        with safe_open(tmp_path / "out" / shard, "pt") as file:
            assert name in file.keys()  # noqa: SIM118
    assert set(index) == set(load_file(tmp_path / "whole" / "model.safetensors"))
    sharded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    whole = AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(sharded.state_dict().values(), whole.state_dict().values(), strict=True)
    )


def test_an_earlier_export_is_replaced_whole(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half.safetensors").write_bytes(b"half")

    export_trained(model, tokenizer, tmp_path / "out")

    assert not (tmp_path / "out" / "half.safetensors").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
