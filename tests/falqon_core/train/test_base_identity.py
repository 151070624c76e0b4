import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from falqon_core.contract.errors import ModelError
from falqon_core.contract.quantization_config import quantization_config
from falqon_core.train.base_identity import fingerprint_base
from tests.falqon_core.train.trainings import resize


def test_a_base_is_told_by_its_weights_wherever_and_in_whatever_files_they_are(
    tiny_folder: Path, tmp_path: Path
) -> None:
    fingerprint = fingerprint_base(tiny_folder)
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "README.md").write_text("another card")
    assert fingerprint_base(copy) == fingerprint

    (copy / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    model.save_pretrained(copy, max_shard_size="100KB")
    assert len(list(copy.glob("*.safetensors"))) > 1
    assert fingerprint_base(copy) == fingerprint

    assert fingerprint_base(resize(tiny_folder, tmp_path / "other", 2)) != fingerprint


def test_a_base_that_was_merged_here_may_be_merged_again(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "merged")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization_config([])
    (folder / "config.json").write_text(json.dumps(config))
    assert fingerprint_base(folder) is None


def test_a_base_that_cannot_be_read_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        fingerprint_base(folder)
