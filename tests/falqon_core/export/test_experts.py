"""Experts of a mixture as the FP8 folder holds them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from falqon_core.export.experts import expert_codes
from falqon_core.export.reading import decoder_weights, load_dequantized
from falqon_core.export.trained import export_trained
from falqon_core.ops.experts import quantize_experts
from falqon_core.train.model import load_base_model
from tests.falqon_core.families.models import FAMILIES, random_model

LAYER = "model.layers.1"


def export(family: str, tiny: Path, folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the tensors and the parsed config.json of an exported model."""
    model = random_model(FAMILIES[family])
    quantize_experts(model)
    export_trained(model, AutoTokenizer.from_pretrained(tiny), folder)
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def test_each_expert_has_codes_scales_and_published_names(
    tiny_folder: Path, tmp_path: Path
) -> None:
    tensors, config = export("Qwen3 MoE", tiny_folder, tmp_path / "fp8")

    name = f"{LAYER}.mlp.experts.3.up_proj.weight"
    assert (tensors[name].dtype, tensors[name].shape) == (torch.float8_e4m3fn, (24, 48))
    assert tensors[f"{name}_scale"].shape == (24, 1)
    assert load_dequantized(tmp_path / "fp8")[name].dtype == torch.bfloat16
    assert not [name for name in tensors if "experts.gate_up_proj" in name]
    # vLLM holds the router as a linear, which it would take for a quantized one.
    assert f"{LAYER}.mlp.gate" in config["quantization_config"]["ignore"]
    # Older libraries know the number of experts by the published name alone.
    assert config["num_experts"] == 4


@pytest.mark.parametrize("family", ["Qwen3 MoE", "Granite MoE", "gpt-oss"])
def test_a_further_training_has_the_same_codes(
    family: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Experts that are written in bf16 round to the codes that they were made of."""
    model = random_model(FAMILIES[family])
    quantize_experts(model)
    export_trained(model, AutoTokenizer.from_pretrained(tiny_folder), tmp_path / "fp8")

    loaded = load_base_model(tmp_path / "fp8").state_dict()

    codes = expert_codes(model)
    assert len(codes) == 4
    for name, value in codes.items():
        scale = model.state_dict()[f"{name}_scale"]
        assert torch.equal(loaded[name].float() * loaded[f"{name}_scale"], value.float() * scale)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")
@pytest.mark.parametrize("family", ["Qwen3 MoE", "Qwen3.5 MoE", "GLM-4.5", "gpt-oss, MXFP4"])
def test_a_gguf_has_the_experts_of_any_folder(
    family: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """In FP8, each apart, or as transformers has them, all together."""
    export(family, tiny_folder, tmp_path / "fp8")
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "fp8",
        quantization_config=CompressedTensorsConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    plain.save_pretrained(tmp_path / "plain", save_original_format=False)

    weights = decoder_weights(tmp_path / "fp8")

    together = decoder_weights(tmp_path / "plain")
    assert weights.keys() == together.keys()
    for name, value in weights.items():
        assert torch.equal(value, together[name]), name
    state = plain.state_dict()
    down = weights[f"{LAYER}.mlp.experts.down_proj.weight"]
    own = state[f"{LAYER}.mlp.experts.down_proj"]
    assert torch.equal(down, own.transpose(1, 2) if "gpt-oss" in family else own)
