import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from falqon_core.contract.errors import ModelError
from falqon_core.train.model import load_base_model, load_tokenizer


def test_a_model_comes_in_bf16_ready_to_train(tiny_folder: Path) -> None:
    model = load_base_model(tiny_folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert load_tokenizer(tiny_folder).eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gemma2"}, "not supported"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "quantized already"),
        ({"auto_map": {}}, "remote code"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(
    change: dict[str, object], says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=says) as caught:
        load_base_model(folder)
    assert caught.value.param == "model"


def test_weights_that_are_cut_off_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        load_base_model(folder)


def test_a_tensor_that_is_missing_is_not_made_up(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base_model(folder)


def test_a_folder_without_a_tokenizer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(
        tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*")
    )
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(folder)
