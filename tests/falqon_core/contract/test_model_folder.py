import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import (
    MAX_DEPTH,
    MAX_TEMPLATE_BYTES,
    check_architecture,
    check_model_files,
    check_model_folder,
    check_weights,
    is_too_deep,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_a_plain_folder_passes(folder: Path) -> None:
    assert check_model_folder(folder) == SIZES


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.PT",
        "sub/optimizer.pth",
        "x.ckpt",
        "x.pkl",
        "x.joblib",
        "tf_model.h5",
    ],
)
def test_pickles_are_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")

    with pytest.raises(ModelError, match="may hold a pickle") as caught:
        check_model_folder(folder)
    assert name in str(caught.value)
    assert (caught.value.code, caught.value.param) == ("model_refused", "model")


@pytest.mark.parametrize("name", ["modeling_acme.py", "sub/kernel.so"])
def test_program_code_is_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")

    with pytest.raises(ModelError, match="program code"):
        check_model_folder(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, None])
def test_an_unreadable_config_is_refused(content: bytes | None, folder: Path) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)

    with pytest.raises(ModelError, match=r"config\.json"):
        check_model_folder(folder)


def test_weights_must_be_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        check_model_folder(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a folder"):
        check_model_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        *(pickle.dumps({"a": [1]}, protocol) for protocol in range(2, 6)),
        b"PK\x03\x04torch writes these",
        b"\x89HDF\r\n\x1a\n",
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.model", "README.md", "merges.txt", "sub/harmless"])
def test_pickles_are_refused_under_any_name(name: str, content: bytes, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)

    with pytest.raises(ModelError, match="may hold a pickle"):
        check_model_folder(folder)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_no_safetensors_file(protocol: int, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(
        pickle.dumps({f"weight{index}": [1.0] * 100 for index in range(100)}, protocol)
    )

    with pytest.raises(ModelError, match="not a s"):
        check_weights(folder)


def test_a_program_is_refused_under_any_name(folder: Path) -> None:
    shutil.copyfile("/bin/true", folder / "LICENSE")

    with pytest.raises(ModelError, match="program code"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"text_config": {"auto_map": {"AutoModel": "modeling.Model"}}},
        {"layers": [{"custom_generate": "x"}]},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "someone/kernel:attention"},
        {"text_config": {"experts_implementation": {"": "someone/kernel"}}},
        {"kernel_config": {"RMSNorm": "someone/kernel"}},
    ],
)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "anything.json"]
)
def test_json_that_names_code_is_refused(name: str, content: dict[str, Any], folder: Path) -> None:
    (folder / name).write_text(json.dumps(content))

    with pytest.raises(ModelError, match="code"):
        check_model_files(folder)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_json_has_a_depth(name: str, opening: str, closing: str, folder: Path) -> None:
    deep = MAX_DEPTH - 2  # with the object around it and the zero in it
    (folder / name).write_text('{"a": ' + opening * deep + "0" + closing * deep + "}")
    check_model_files(folder)
    deep += 1
    (folder / name).write_text('{"a": ' + opening * deep + "0" + closing * deep + "}")

    with pytest.raises(ModelError, match=rf"{name} is nested deeper than 64 levels"):
        check_model_files(folder)


def test_json_may_be_nested_deeper_than_functions_call_each_other() -> None:
    """The parser of Python 3.12 and later returns such values."""
    value: Any = {}
    for _ in range(100_000):
        value = {"a": [value]}

    assert is_too_deep(value)


def test_a_word_of_the_vocabulary_may_be_any(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({"auto_map": 0, "trust_remote_code": 1}))

    check_model_files(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "x" * (MAX_TEMPLATE_BYTES + 1)),
        ("additional_chat_templates/tools.jinja", "x" * (MAX_TEMPLATE_BYTES + 1)),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": "é" * (MAX_TEMPLATE_BYTES // 2 + 1)}, ensure_ascii=False),
        ),
        (
            "tokenizer_config.json",
            json.dumps(
                {"chat_template": [{"name": "a", "template": "x" * (MAX_TEMPLATE_BYTES + 1)}]}
            ),
        ),
        ("chat_template.json", json.dumps({"chat_template": "x" * (MAX_TEMPLATE_BYTES + 1)})),
    ],
)
def test_a_chat_template_has_a_limit(name: str, content: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")

    with pytest.raises(ModelError, match="longer than 64 KiB"):
        check_model_files(folder)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": ["llama"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM", "Evil"]},
        {"model_type": "llama", "architectures": "LlamaForCausalLM"},
        {"model_type": "llama", "architectures": [7]},
    ],
)
def test_models_other_than_decoders_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not supported"):
        check_architecture(config)
    check_architecture({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("mixtral", "num_local_experts"),
        ("qwen2_moe", "num_experts"),
        ("deepseek_v3", "n_routed_experts"),
        ("ernie4_5_moe", "moe_num_experts"),
    ],
)
def test_a_mixture_of_experts_is_refused_by_its_name(kind: str, key: str) -> None:
    with pytest.raises(ModelError, match=rf"{kind} is a mixture of experts \({key} is 8\)"):
        check_architecture({"model_type": kind, "text_config": {key: 8}})
    check_architecture({"model_type": "dense", key: 1})
    check_architecture({"model_type": "dense", key: None})
    check_architecture({"model_type": "qwen3_moe", key: 8})
