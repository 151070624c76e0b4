"""Models that were brought in before imports compared their parts: a training on one ends at once
and blames the model.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.errors import ModelError
from falqon_core.train.trainer import Trainer


def edit(name: str, **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(8, 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def token_beyond(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    entry = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 960, "content": "Question 7", "special": True, **entry})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def empty_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def template_without_an_end(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}\n{{ message")


def generation_of_a_list(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[]")


BAD = {
    "generation": (generation_of_a_list, "generation_config.json cannot be used"),
    "layers-many": (
        edit("config.json", num_hidden_layers=10**9),
        "num_hidden_layers is 1000000000",
    ),
    "activation": (edit("config.json", hidden_act="none of them"), "no model that can be built"),
    "shape": (wrong_shape, r"has the shape \[8, 8\], but config.json makes it \[192, 64\]"),
    "template": (template_without_an_end, "no Jinja, line 2"),
    "token": (
        token_beyond,
        "token 960 of the tokenizer, 'Question 7', is beyond the model's 960 embeddings",
    ),
    "tokenizer": (empty_tokenizer, "tokenizer is empty"),
}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize("name", BAD)
def test_a_training_blames_the_model(
    name: str, folder: Path, train_file: Path, tmp_path: Path
) -> None:
    spoil, says = BAD[name]
    spoil(folder)
    config = TrainConfig(model=folder, train_file=train_file, recipe=Recipe(rank=8), device="cpu")

    with pytest.raises(ModelError, match=says) as caught:
        Trainer(config, tmp_path / "output", lambda _: None, lambda: False)
    assert (caught.value.code, caught.value.param) == ("model_refused", "model")


def test_a_token_beyond_the_embeddings_that_no_record_holds_harms_nobody(
    folder: Path, tmp_path: Path
) -> None:
    token_beyond(folder)
    (tmp_path / "train.jsonl").write_text('{"text": "Seven lamps."}\n' * 4)
    config = TrainConfig(
        model=folder, train_file=tmp_path / "train.jsonl", recipe=Recipe(rank=8), device="cpu"
    )

    Trainer(config, tmp_path / "output", lambda _: None, lambda: False)
