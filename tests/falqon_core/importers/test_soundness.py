"""Models whose parts do not fit one another, brought in as a stranger's folder; good ones of every
family, whole and in shards.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)  # fmt: skip

from falqon_core.importers.importer import import_model
from tests.falqon_core.importers.test_importer import assert_refused, edit_json

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 960, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
GOOD = [
    LlamaConfig(**SIZES, tie_word_embeddings=True),
    LlamaConfig(**SIZES, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    MistralConfig(**SIZES, tie_word_embeddings=False),
    Qwen2Config(**SIZES, tie_word_embeddings=True),
    Qwen2Config(**SIZES, tie_word_embeddings=False),
    Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=False),
]
MIXTURE = Qwen3MoeConfig(
    **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[0]
)
UP = "model.layers.1.mlp.up_proj.weight"


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def mixture(tiny_folder: Path) -> Path:
    """A folder of a mixture of experts, each expert in tensors of its own."""
    model = AutoModelForCausalLM.from_config(MIXTURE, dtype=torch.bfloat16)
    model.save_pretrained(tiny_folder)
    return tiny_folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_experts": 6, "num_local_experts": 6}, r"mlp\.gate\.weight has the shape \[4, 32\]"),
        ({"num_local_experts": 4097}, "num_local_experts is 4097, and not a whole number"),
        (
            {"num_experts_per_tok": 5},
            "num_experts_per_tok is 5, and not a whole number from 1 to 4",
        ),
        ({"expert_format": "nvfp4"}, "expert_format is 'nvfp4', and not 'mxfp4'"),
        ({"expert_format": "mxfp4"}, "experts in MXFP4 have inputs in blocks of 32"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok is None"),
        ({"moe_intermediate_size": 16}, r"experts\.\d\.\w+\.weight has the shape"),
        ({"mlp_only_layers": [0, 1]}, r"lack 3 tensors, .*layers\.1\.mlp\.down_proj\.weight"),
        ({"mlp_only_layers": "all"}, "mlp_only_layers is 'all', and not a list"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    ],
)
def test_experts_other_than_those_of_the_config_are_refused(
    changes: dict[str, Any], says: str, mixture: Path
) -> None:
    edit_json(mixture / "config.json", **changes)
    assert_refused(mixture, says)


@pytest.mark.parametrize("name", ["mlp.gate.weight", "mlp.experts.3.up_proj.weight"])
def test_a_router_or_an_expert_that_is_missing_is_named(name: str, mixture: Path) -> None:
    edit_tensors(mixture, lambda tensors: tensors.pop(f"model.layers.1.{name}"))
    assert_refused(mixture, rf"lack 1 tensors, the first is model\.layers\.1\.{name}")


@pytest.mark.parametrize("shard_size", ["5GB", "40KB"], ids=["whole", "shards"])
@pytest.mark.parametrize(
    "config",
    [*GOOD, MIXTURE],
    ids=lambda config: f"{config.model_type}-{config.tie_word_embeddings}",
)
def test_good_models_come_in(
    config: PreTrainedConfig, shard_size: str, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (tiny_folder / name).unlink()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tiny_folder, max_shard_size=shard_size)
    assert len(list(tiny_folder.glob("*.safetensors"))) == 1 or shard_size != "5GB"

    import_model(str(tiny_folder), tmp_path / "model")

    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_bare_decoder_and_tensors_without_a_place_come_in(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def bare(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors["visual.merger"] = torch.zeros(3)

    edit_tensors(tiny_folder, bare)

    import_model(str(tiny_folder), tmp_path / "model")

    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "mismatched_keys"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 3}, "lack 9 tensors, the first is model.layers.2"),
        ({"num_attention_heads": 8, "head_dim": 8}, r"k_proj.weight has the shape \[32, 64\]"),
        ({"hidden_size": 128}, r"has the shape \[960, 64\], but config.json makes it \[960, 128\]"),
        ({"vocab_size": 1000}, r"has the shape \[960, 64\], but config.json makes it \[1000, 64\]"),
        ({"intermediate_size": 193}, r"gate_proj.weight has the shape \[192, 64\]"),
        ({"pad_token_id": 960}, "pad_token_id is 960, and not the number of one of 960 tokens"),
        ({"tie_word_embeddings": False}, "lack 1 tensors, the first is lm_head.weight"),
        ({"attention_bias": True}, "lack 8 tensors"),
        ({"hidden_act": "none of them"}, "no model that can be built"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(
    change: dict[str, Any], says: str, tiny_folder: Path
) -> None:
    edit_json(tiny_folder / "config.json", **change)

    assert_refused(tiny_folder, says)


def test_weights_of_another_shape_are_refused(tiny_folder: Path) -> None:
    edit_tensors(tiny_folder, lambda tensors: tensors.update({UP: torch.zeros(8, 8)}))

    assert_refused(
        tiny_folder, rf"{UP} has the shape \[8, 8\], but config.json makes it \[192, 64\]"
    )


def test_weights_that_are_another_models_are_refused(tiny_folder: Path) -> None:
    edit_tensors(tiny_folder, lambda tensors: (tensors.clear(), tensors.update(a=torch.zeros(1))))

    assert_refused(tiny_folder, "lack 20 tensors, the first is model.embed_tokens.weight")


def test_a_head_that_is_there_although_it_is_tied_has_the_right_shape(tiny_folder: Path) -> None:
    edit_tensors(tiny_folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(2, 2)}))

    assert_refused(tiny_folder, r"lm_head.weight has the shape \[2, 2\]")


def test_shards_without_an_index_are_refused(tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").rename(tiny_folder / "model-00001-of-00001.safetensors")

    assert_refused(tiny_folder, "neither model.safetensors nor model.safetensors.index.json")


def test_two_shards_with_one_tensor_are_refused(tiny_folder: Path) -> None:
    shards = ["one.safetensors", "two.safetensors"]
    for shard in shards:
        shutil.copyfile(tiny_folder / "model.safetensors", tiny_folder / shard)
    (tiny_folder / "model.safetensors").unlink()
    index = {"weight_map": {f"t{number}": shard for number, shard in enumerate(shards)}}
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert_refused(tiny_folder, "two files hold a tensor")


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", '{"version": "1.0"}', '{"model": {"type": "BPE"}}']
)
def test_a_tokenizer_that_is_none_is_refused(content: str, tiny_folder: Path) -> None:
    (tiny_folder / "tokenizer.json").write_text(content)

    assert_refused(tiny_folder, "tokenizer")


def test_an_empty_tokenizer_is_refused(tiny_folder: Path) -> None:
    edit_tokenizer(tiny_folder, lambda content: content["model"].update(vocab={}, merges=[]))

    assert_refused(tiny_folder, "the tokenizer is empty: it finds no token in 'a'")


@pytest.mark.parametrize(
    "change", [{"model_max_length": "x"}, {"eos_token": [1]}, {"extra_special_tokens": 0}]
)
def test_a_tokenizer_whose_settings_break_it_is_refused(
    change: dict[str, Any], tiny_folder: Path
) -> None:
    edit_json(tiny_folder / "tokenizer_config.json", **change)

    assert_refused(tiny_folder, "the tokenizer cannot be")


def test_a_token_beyond_the_embeddings_is_refused(tiny_folder: Path) -> None:
    token = {"id": 960, "content": "<beyond>", "single_word": False, "lstrip": False,
    "rstrip": False,
             "normalized": False, "special": True}  # fmt: skip
    edit_tokenizer(tiny_folder, lambda content: content["added_tokens"].append(token))

    assert_refused(
        tiny_folder, "token 960 of the tokenizer, '<beyond>', is beyond the model's 960 embeddings"
    )


def test_a_special_token_that_loading_would_add_is_refused(tiny_folder: Path) -> None:
    edit_json(tiny_folder / "tokenizer_config.json", pad_token="<padding>")

    assert_refused(tiny_folder, "token 960 of the tokenizer, '<padding>'")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("fine\n{% for message in messages %}\n{{ message", "no Jinja, line 3"),
        ("{% if true %}", "no Jinja, line 1"),
        ("{{ messages | nothing_of_the_kind }}", "no Jinja, line 1: No filter named"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be read"),
    ],
)
def test_a_template_that_is_no_jinja_is_refused(
    template: str, says: str, tiny_folder: Path
) -> None:
    (tiny_folder / "chat_template.jinja").write_text(template)

    assert_refused(tiny_folder, says)


def test_one_of_several_templates_that_is_no_jinja_is_refused(tiny_folder: Path) -> None:
    (tiny_folder / "chat_template.jinja").unlink()
    templates = [
        {"name": "default", "template": "fine"},
        {"name": "tool_use", "template": "{% bad"},
    ]
    edit_json(tiny_folder / "tokenizer_config.json", chat_template=templates)

    assert_refused(tiny_folder, "no Jinja, line 1")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "notes"])
def test_a_pipe_is_refused_without_being_opened(name: str, tiny_folder: Path) -> None:
    (tiny_folder / name).unlink(missing_ok=True)
    os.mkfifo(tiny_folder / name)

    assert_refused(tiny_folder, f"{name} is no regular file")


def test_a_socket_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder)  # its address has room for a short name only
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("vocab.json")
        assert_refused(tiny_folder, "vocab.json is no regular file")


@pytest.mark.parametrize("target", ["/dev/zero", "nowhere"])
def test_a_link_to_what_is_no_file_is_refused(target: str, tiny_folder: Path) -> None:
    (tiny_folder / "config.json").unlink()
    (tiny_folder / "config.json").symlink_to(target)

    assert_refused(tiny_folder, "config.json is no regular file")


@pytest.mark.parametrize(
    "name",
    ["a.safetensors", "sub/a.safetensors", "config.json", "chat_template.jinja", "vocab.json"],
)
def test_a_folder_that_is_named_like_a_file_is_refused(name: str, tiny_folder: Path) -> None:
    (tiny_folder / name).unlink(missing_ok=True)
    (tiny_folder / name).mkdir(parents=True)

    assert_refused(tiny_folder, f"{name} is a folder, and has the name of a file")


@pytest.mark.parametrize(
    "content",
    ["[]", '{"num_return_sequences": 3}', '{"forced_eos_token_id": 2, "suppress_tokens": [2]}'],
)
def test_a_generation_config_that_no_model_loads_with_is_refused(
    content: str, tiny_folder: Path
) -> None:
    (tiny_folder / "generation_config.json").write_text(content)

    assert_refused(tiny_folder, "generation_config.json cannot be used")
