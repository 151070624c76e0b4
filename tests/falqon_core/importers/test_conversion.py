"""Folders that hold a decoder in another form than plain bf16."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    GptOssConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    SiglipVisionConfig,
)

from falqon_core.contract.quantization_config import quantization_config
from falqon_core.export.trained import export_trained
from falqon_core.importers.importer import import_model
from falqon_core.train.model import load_base_model
from tests.falqon_core.export.conftest import quantize_linears
from tests.falqon_core.families.models import DELTA_NET, GEMMA, SIZES
from tests.falqon_core.importers.test_importer import assert_refused, edit_json

BLOCK = 16
Tensors = dict[str, torch.Tensor]


def imported(source: Path, tmp_path: Path) -> tuple[Tensors, list[str]]:
    changes = import_model(str(source), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    return model.state_dict(), changes


def test_fp8_by_row_becomes_bf16(tiny_folder: Path, tmp_path: Path) -> None:
    model = quantize_linears(AutoModelForCausalLM.from_pretrained(tiny_folder))
    export_trained(model, AutoTokenizer.from_pretrained(tiny_folder), tmp_path / "fp8")

    tensors, changes = imported(tmp_path / "fp8", tmp_path)

    stored = load_file(tmp_path / "fp8" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    expected = (stored[name].float() * stored[f"{name}_scale"]).bfloat16()
    assert torch.equal(tensors[name], expected)
    assert changes == [
        "The weights were compressed-tensors, float-quantized and are dequantized to bf16."
    ]


def test_fp8_in_blocks_becomes_bf16(tiny_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_folder / "model.safetensors")
    expected: Tensors = {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name].float()
        blocks = weight.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
        scale = blocks.abs().amax((1, 3), keepdim=True) / 448.0
        codes = (blocks / scale).to(torch.float8_e4m3fn)
        expected[name] = (codes.float() * scale).reshape(weight.shape).bfloat16()
        tensors[name] = codes.reshape(weight.shape)
        tensors[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    described = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    }  # fmt: skip
    edit_json(tiny_folder / "config.json", quantization_config=described)

    state, changes = imported(tiny_folder, tmp_path)

    for name, weight in expected.items():
        assert torch.equal(state[name], weight), name
    assert changes == [
        "The weights were FP8 in blocks with weight_scale_inv and are dequantized to bf16."
    ]


STATIC_FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "static",
    "weight_block_size": None,
}
COMPRESSED = quantization_config(["lm_head"])
UP = "model.layers.1.mlp.up_proj.weight"


def quantize_tensors(folder: Path, scale_name: str, dtype: torch.dtype) -> Tensors:
    """Write each linear as codes, one scale for all of them; return what was written."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        largest = 127 if dtype == torch.int8 else 448
        scale = tensors[name].float().abs().max() / largest
        tensors[name] = (tensors[name].float() / scale).to(dtype)
        tensors[name.replace("weight", scale_name)] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def test_fp8_with_static_scales_of_activations_becomes_bf16(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """As Ministral 3 is published; those scales are of no use where activations are bf16."""
    stored = quantize_tensors(tiny_folder, "weight_scale_inv", torch.float8_e4m3fn)
    of_activations = {
        UP.replace("weight", name): torch.tensor(0.5)
        for name in ("activation_scale", "input_scale")
    }
    of_cache = {"model.layers.1.self_attn.k_scale": torch.tensor(0.5)}
    path = tiny_folder / "model.safetensors"
    save_file(stored | of_activations | of_cache, path, metadata={"format": "pt"})
    edit_json(tiny_folder / "config.json", quantization_config=STATIC_FP8)

    tensors, _ = imported(tiny_folder, tmp_path)

    expected = (stored[UP].float() * stored[f"{UP}_scale_inv"]).bfloat16()
    assert torch.equal(tensors[UP], expected)


@pytest.mark.parametrize(
    ("described", "scale_name"), [(STATIC_FP8, "weight_scale"), (COMPRESSED, "weight_scale_inv")]
)
def test_codes_whose_scales_are_not_read_are_refused(
    described: dict[str, Any], scale_name: str, tiny_folder: Path
) -> None:
    quantize_tensors(tiny_folder, scale_name, torch.float8_e4m3fn)
    edit_json(tiny_folder / "config.json", quantization_config=described)

    assert_refused(tiny_folder, r"_proj\.weight is in F8_E4M3, .* no scale .*; export the model in")


@pytest.mark.parametrize(
    ("described", "scale_name"), [(STATIC_FP8, "weight_scale_inv"), (COMPRESSED, "weight_scale")]
)
def test_one_weight_of_codes_without_a_scale_is_named(
    described: dict[str, Any], scale_name: str, tiny_folder: Path
) -> None:
    tensors = quantize_tensors(tiny_folder, scale_name, torch.float8_e4m3fn)
    del tensors[UP.replace("weight", scale_name)]
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(tiny_folder / "config.json", quantization_config=described)

    assert_refused(tiny_folder, f"{UP} is in F8_E4M3, and the files hold no scale")


def test_codes_in_bf16_whose_scale_is_not_read_are_refused(tiny_folder: Path) -> None:
    tensors = load_file(tiny_folder / "model.safetensors")
    tensors[f"{UP}_scale"] = torch.tensor(0.5)
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(tiny_folder / "config.json", quantization_config=STATIC_FP8)

    assert_refused(tiny_folder, f"config.json does not read {UP}_scale; export the model in bf16")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_codes_that_the_config_does_not_describe_are_refused(
    dtype: torch.dtype, tiny_folder: Path
) -> None:
    quantize_tensors(tiny_folder, "weight_scale", dtype)

    assert_refused(tiny_folder, r"_proj\.weight is in (F8_E4M3|I8), .*; export the model in bf16")


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            r"quantized already \(gptq\), which cannot be undone",
        ),
        ({"quant_method": "mxfp4"}, r"\(MXFP4 in blocks of 32\)"),
        ({}, r"\(None\)"),
        ([], "quantization_config of config.json is not a JSON object"),
    ],
)
def test_other_quantizations_are_refused_by_name(
    described: Any, says: str, tiny_folder: Path
) -> None:
    edit_json(tiny_folder / "config.json", quantization_config=described)

    assert_refused(tiny_folder, says)


def test_mxfp4_of_compressed_tensors_becomes_bf16(tiny_folder: Path, tmp_path: Path) -> None:
    """Two codes a byte, the first in the low half; an exponent of two for 32 of them."""
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([values, -values])
    tensors = load_file(tiny_folder / "model.safetensors")
    expected: Tensors = {}
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors.pop(name).shape
        codes = torch.randint(16, (rows, columns), generator=generator)
        exponents = torch.randint(118, 126, (rows, columns // 32), generator=generator)
        scale = torch.exp2(exponents - 127.0).repeat_interleave(32, 1)
        expected[name] = (values[codes] * scale).bfloat16()
        packed = codes[:, 0::2] | codes[:, 1::2] << 4
        tensors[f"{name}_packed"] = packed.to(torch.uint8)
        tensors[f"{name}_scale"] = exponents.to(torch.uint8)
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    weights = {
        "num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True,
        "scale_dtype": "torch.uint8",
    }  # fmt: skip
    described = {
        "quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
        "quantization_status": "compressed", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip
    edit_json(tiny_folder / "config.json", quantization_config=described)

    state, conversions = imported(tiny_folder, tmp_path)

    for name, weight in expected.items():
        assert torch.equal(state[name], weight), name
    assert conversions == [
        "The weights were compressed-tensors, mxfp4-pack-quantized and are dequantized to bf16."
    ]


def test_experts_in_mxfp4_become_bf16_and_train_in_mxfp4(tiny_folder: Path, tmp_path: Path) -> None:
    """Rows of outputs, in blocks of 32 inputs: 16 bytes, and an exponent of two with bias 127."""
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([values, -values])
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 32}
    config = GptOssConfig(**sizes, num_local_experts=4, num_experts_per_tok=2, head_dim=16)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tiny_folder)
    tensors = load_file(tiny_folder / "model.safetensors")
    expected: Tensors = {}
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        codes = torch.randint(16, (experts, outputs, inputs), generator=generator)
        exponents = torch.randint(118, 126, (experts, outputs, inputs // 32), generator=generator)
        scale = torch.exp2(exponents - 127.0).repeat_interleave(32, 2)
        expected[name] = (values[codes] * scale).bfloat16().transpose(1, 2)
        packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        tensors[f"{name}_blocks"] = packed.unflatten(2, (-1, 16))
        tensors[f"{name}_scales"] = exponents.to(torch.uint8)
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(tiny_folder / "config.json", quantization_config={"quant_method": "mxfp4"})

    state, conversions = imported(tiny_folder, tmp_path)

    assert len(expected) == 4
    for name, weight in expected.items():
        assert torch.equal(state[name], weight), name
    assert conversions[0] == "The weights were MXFP4 in blocks of 32 and are dequantized to bf16."
    training = load_base_model(tmp_path / "model").state_dict()
    for name in expected:
        assert torch.equal(training[name], tensors[f"{name}_blocks"].flatten(2).transpose(1, 2))


def write_nf4(folder: Path, output: Path, *, double: bool) -> Path:
    """Quantize a model as its publishers do."""
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.bfloat16
    )
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)
    return output


@pytest.mark.parametrize("double", [False, True])
def test_nf4_becomes_bf16(double: bool, tiny_folder: Path, tmp_path: Path) -> None:
    write_nf4(tiny_folder, tmp_path / "nf4", double=double)

    tensors, conversions = imported(tmp_path / "nf4", tmp_path)

    name = "model.layers.1.mlp.up_proj.weight"
    stored = load_file(tmp_path / "nf4" / "model.safetensors")
    parts = {key.removeprefix(f"{name}."): value for key, value in stored.items() if name in key}
    weight = parts.pop(name)
    state = QuantState.from_dict(parts, torch.device("cpu"))
    expected = dequantize_4bit(weight, state)
    assert torch.equal(tensors[name], expected.bfloat16())
    original = load_file(tiny_folder / "model.safetensors")[name].float()
    assert (tensors[name].float() - original).norm() < 0.15 * original.norm()
    assert conversions == ["The weights were bitsandbytes, nf4 and are dequantized to bf16."]


@pytest.mark.parametrize("part", ["absmax", "nested_absmax", "nested_quant_map"])
def test_nf4_with_too_few_scales_is_refused(part: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_nf4(tiny_folder, tmp_path / "nf4", double=True)
    tensors = load_file(folder / "model.safetensors")
    name = f"model.layers.1.mlp.up_proj.weight.{part}"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    assert_refused(folder, r"model\.layers\.1\.mlp\.up_proj\.weight has not the scales")


def test_of_experts_in_mxfp4_the_experts_are_what_is_refused(tiny_folder: Path) -> None:
    described = {"quant_method": "mxfp4"}
    edit_json(tiny_folder / "config.json", quantization_config=described, num_local_experts=32)

    assert_refused(tiny_folder, "is a mixture of experts")


def test_codes_without_their_scales_are_refused(tiny_folder: Path) -> None:
    tensors = load_file(tiny_folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    del tensors[name]
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(tiny_folder / "config.json", quantization_config={"quant_method": "fp8"})

    assert_refused(tiny_folder, f"lack 1 tensors, the first is {name}")


@pytest.fixture
def gemma(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Gemma3ForConditionalGeneration]:
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=SIZES | GEMMA, vision_config=vision, mm_tokens_per_image=4,
        image_token_index=3, boi_token_index=4, eoi_token_index=5,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).bfloat16().save_pretrained(tmp_path / "gemma")
    # `bfloat16` has rounded rotary frequencies, too
    model = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "gemma", dtype=torch.bfloat16)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny_folder / name, tmp_path / "gemma" / name)
    return tmp_path / "gemma", model


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: "model." + name.replace("language_model.model.", "language_model."),
    ],
    ids=["as published", "as newer versions name them"],
)
def test_the_text_decoder_of_a_model_that_sees_is_taken(
    rename: Callable[[str], str], gemma: tuple[Path, Gemma3ForConditionalGeneration], tmp_path: Path
) -> None:
    folder, model = gemma
    tensors = load_file(folder / "model.safetensors")
    assert "language_model.model.embed_tokens.weight" in tensors
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})

    changes = import_model(str(folder), tmp_path / "model")

    decoder = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert type(decoder).__name__ == "Gemma3ForCausalLM"
    input_ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(decoder(input_ids).logits, model(input_ids).logits)
    decoder_only, note = changes
    assert (
        decoder_only
        == "Of the gemma3 model only the text decoder is taken; it sees no images here."
    )
    assert "there is no GGUF for the architecture 'gemma3_text'" in note


def test_the_text_decoder_of_ministral_3_is_taken(tiny_folder: Path, tmp_path: Path) -> None:
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    text = SIZES | {"model_type": "ministral3", "head_dim": 16}
    config = Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=3, tie_word_embeddings=False
    )
    model = Mistral3ForConditionalGeneration(config).bfloat16()
    model.save_pretrained(tiny_folder)

    state, changes = imported(tiny_folder, tmp_path)

    name = "layers.1.mlp.up_proj.weight"
    assert torch.equal(state[f"model.{name}"], model.state_dict()[f"model.language_model.{name}"])
    assert changes[0].startswith("Of the mistral3 model only the text decoder is taken")


QWEN_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 32,
}
SMALL_VISION = {"hidden_size": 16, "intermediate_size": 24}
QWEN_VISION = SMALL_VISION | {
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 48,
    "num_position_embeddings": 16,
}
QWEN_TOKENS = {
    "image_token_id": 3,
    "video_token_id": 4,
    "vision_start_token_id": 5,
    "vision_end_token_id": 6,
}
GEMMA4_VISION = SMALL_VISION | {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "position_embedding_size": 16,
}
GEMMA4_TEXT = {
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 960,
    "global_head_dim": 24,
    "layer_types": ["sliding_attention", "full_attention"],
}


@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (
            Qwen3_5Config(
                text_config=SIZES | DELTA_NET | {"head_dim": 16},
                vision_config=QWEN_VISION,
                **QWEN_TOKENS,
            ),
            Qwen3_5ForConditionalGeneration,
        ),
        (
            Qwen3_5MoeConfig(
                text_config=SIZES | DELTA_NET | QWEN_EXPERTS | {"head_dim": 16},
                vision_config=QWEN_VISION,
                **QWEN_TOKENS,
            ),
            Qwen3_5MoeForConditionalGeneration,
        ),
        (
            Gemma4Config(
                text_config=SIZES | GEMMA4_TEXT | {"head_dim": 16},
                vision_config=GEMMA4_VISION,
                image_token_id=3,
                video_token_id=4,
                audio_token_id=5,
            ),
            Gemma4ForConditionalGeneration,
        ),
    ],
    ids=lambda each: getattr(each, "model_type", ""),
)
def test_the_text_decoder_of_a_hybrid_is_taken(
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    model = model_class(config).bfloat16()
    model.save_pretrained(tiny_folder)
    tensors = load_file(tiny_folder / "model.safetensors")
    tensors["mtp.fc.weight"] = torch.zeros(4, 4)
    save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})

    state, changes = imported(tiny_folder, tmp_path)

    assert len(state) < len(model.state_dict()), "the images' tower is left out"
    for name, tensor in model.model.language_model.state_dict().items():
        assert torch.equal(state[f"model.{name}"], tensor), name
    assert torch.equal(state["lm_head.weight"], model.lm_head.weight)
    assert changes[0].startswith(f"Of the {config.model_type} model only the text decoder is taken")
    assert "that predict further tokens (MTP) are left out" in changes[1]
