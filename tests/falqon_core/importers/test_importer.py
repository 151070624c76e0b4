import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from falqon_core.contract.errors import ModelError
from falqon_core.importers.folder import move_model
from falqon_core.importers.importer import BUILTIN_MODEL, import_model

NAMED_TEMPLATES = "additional_chat_templates"


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_refused(source: Path, match: str) -> None:
    """Refused with the sentence, and nothing is left where the model would have been."""
    before = set(source.parent.iterdir())
    with pytest.raises(ModelError, match=match) as caught:
        import_model(str(source), source.parent / "model")
    assert caught.value.param == "model"
    assert set(source.parent.iterdir()) == before


def test_a_folder_is_copied_without_what_is_not_needed(tiny_folder: Path) -> None:
    (tiny_folder / "notes.txt").write_text("private")
    (tiny_folder / "LICENSE").write_text("free")
    edit_json(
        tiny_folder / "config.json",
        _attn_implementation="eager",
        _name_or_path="/home/someone",
        attn_implementation="x",
    )
    output = tiny_folder.parent / "catalogue" / "model"

    import_model(str(tiny_folder), output)

    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors",
         "tokenizer.json", "tokenizer_config.json"]
    )  # fmt: skip
    config = json.loads((output / "config.json").read_text())
    assert not {"_attn_implementation", "_name_or_path", "attn_implementation"} & set(config)
    assert (output / "model.safetensors").read_bytes() == (
        tiny_folder / "model.safetensors"
    ).read_bytes()
    AutoModelForCausalLM.from_pretrained(output)


def test_the_builtin_model(tmp_path: Path, tiny_folder: Path) -> None:
    import_model(BUILTIN_MODEL, tmp_path / "model")

    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        tiny_folder / "model.safetensors"
    ).read_bytes()


def test_a_model_that_llama_cpp_does_not_load_is_imported_and_says_so(tiny_folder: Path) -> None:
    edit_json(
        tiny_folder / "config.json",
        model_type="mistral",
        architectures=["MistralForCausalLM"],
        sliding_window=16,
    )
    (note,) = import_model(str(tiny_folder), tiny_folder.parent / "model")
    assert "has a sliding window, which its GGUF would not have. vLLM on the worker" in note


@pytest.mark.parametrize("source", [BUILTIN_MODEL, "folder"])
def test_an_output_that_exists_is_refused(source: str, tiny_folder: Path) -> None:
    (tiny_folder.parent / "model").mkdir()

    with pytest.raises(ModelError, match="exists already"):
        import_model(
            str(tiny_folder) if source == "folder" else source, tiny_folder.parent / "model"
        )


def test_named_chat_templates_come_with_a_model(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    default = str(tokenizer.chat_template)
    templates = {"default": default, "tool_use": "{{ tools | tojson }}" + default}
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(tiny_folder)
    (tiny_folder / NAMED_TEMPLATES / "notes.txt").write_text("private")
    output = tiny_folder.parent / "model"

    import_model(str(tiny_folder), output)

    assert AutoTokenizer.from_pretrained(output).chat_template == templates
    assert [path.name for path in (output / NAMED_TEMPLATES).iterdir()] == ["tool_use.jinja"]


def test_a_source_that_does_not_exist_is_refused(tiny_folder: Path) -> None:
    shutil.rmtree(tiny_folder)

    assert_refused(tiny_folder, "is not there")


def test_pickles_are_refused(tiny_folder: Path) -> None:
    (tiny_folder / "pytorch_model.bin").write_bytes(b"")

    assert_refused(tiny_folder, "pytorch_model.bin may hold a pickle")


def test_json_that_names_code_is_refused(tiny_folder: Path) -> None:
    edit_json(tiny_folder / "config.json", auto_map={"AutoModel": "modeling.Model"})

    assert_refused(tiny_folder, "remote code")


def test_a_model_without_a_tokenizer_is_refused(tiny_folder: Path) -> None:
    (tiny_folder / "tokenizer.json").unlink()

    assert_refused(tiny_folder, "no tokenizer.json")


@pytest.mark.parametrize(
    "name", ["LICENSE", "tokenizer_config.json", f"{NAMED_TEMPLATES}/tool_use.jinja"]
)
def test_a_link_out_of_the_folder_is_refused(name: str, tiny_folder: Path) -> None:
    elsewhere = tiny_folder.parent / "elsewhere"
    elsewhere.mkdir()
    secret = elsewhere / "secret.json"
    secret.write_text("{}")
    (tiny_folder / name).unlink(missing_ok=True)
    (tiny_folder / name).parent.mkdir(exist_ok=True)
    (tiny_folder / name).symlink_to(secret)

    assert_refused(tiny_folder, "leads out of the folder")


def test_the_links_of_the_hubs_cache_are_followed(tiny_folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "repository" / "snapshots" / "abc"
    blobs = tmp_path / "repository" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in tiny_folder.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    (blobs / "of tools").write_text("{{ tools }}")
    named = snapshot / NAMED_TEMPLATES / "tool_use.jinja"
    named.parent.mkdir()
    named.symlink_to(Path("../../../blobs/of tools"))

    import_model(str(snapshot), tmp_path / "model")

    assert (tmp_path / "model" / NAMED_TEMPLATES / named.name).read_text() == "{{ tools }}"
    assert not any(path.is_symlink() for path in (tmp_path / "model").rglob("*"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 1000) + b"{}", "not a sound safetensors file"),
    ],
)
def test_broken_weights_are_refused(content: bytes, match: str, tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").write_bytes(content)

    assert_refused(tiny_folder, match)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "missing.safetensors"])
def test_an_index_stays_inside_the_folder(shard: str, tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": shard}})
    )

    assert_refused(tiny_folder, "not a file of the folder")


@pytest.mark.parametrize(
    ("repository", "match"),
    [("not//a name", "not//a name"), ("someone/something", "someone/something")],
)
def test_a_hub_that_does_not_answer_is_a_refusal(
    repository: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    with pytest.raises(ModelError, match=match):
        import_model(f"hf:{repository}", tmp_path / "models" / "model")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_model_from_a_hub_keeps_its_hub_name(tiny_folder: Path, tmp_path: Path) -> None:
    edit_json(tiny_folder / "config.json", _name_or_path="/home/someone")
    (tmp_path / "model").mkdir()

    move_model(tiny_folder, tmp_path / "model", "acme/tiny")

    assert (
        json.loads((tmp_path / "model" / "config.json").read_text())["_name_or_path"] == "acme/tiny"
    )
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_weights_that_transformers_does_not_load_stay_behind(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Mistral's models have all of their weights twice, in two layouts."""
    (tiny_folder / "consolidated.safetensors").write_bytes(
        (tiny_folder / "model.safetensors").read_bytes()
    )
    index = {"weight_map": {"model.norm.weight": "consolidated.safetensors"}}
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps(index))

    import_model(str(tiny_folder), tmp_path / "model")

    weights = [path.name for path in (tmp_path / "model").glob("*safetensors*")]
    assert weights == ["model.safetensors"]
