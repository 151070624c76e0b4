import json
from pathlib import Path

import pytest

from falqon_core.export.provenance import MAX_FILE_BYTES, CardFields, card_fields, copy_licence


@pytest.mark.parametrize(
    ("card", "fields"),
    [
        ("---\nbase_model: other/one\nlicense: apache-2.0\n---\nText", {"license": "apache-2.0"}),
        ("---\nlicense: 'mit'\n---", {"license": "mit"}),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", {"license": ["mit", "apache-2.0"]}),
        (
            "---\nlicense: other\nlicense_name: acme-1\nlicense_link: https://acme.example/1\n---\n",
            {
                "license": "other",
                "license_name": "acme-1",
                "license_link": "https://acme.example/1",
            },
        ),
        ("---\r\nlicense: mit\r\n---\r\nText", {"license": "mit"}),
        ("---\nbase_model: a\n---\nlicense: mit", {}),
        ("no front matter\nlicense: mit", {}),
        ("---\nlicense: [\n---\n", {}),
        ("---\nlicense: {a: b}\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nlicense: " + "[" * 5000 + "\n---\n", {}),
        (None, {}),
    ],
)
def test_the_licence_of_a_base_model(card: str | None, fields: CardFields, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card, newline="")

    assert card_fields(tmp_path, "small") == {"base_model": "small"} | fields


def test_a_base_is_called_as_on_the_hub_that_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "acme/small-1b"}))
    assert card_fields(tmp_path, "small")["base_model"] == "acme/small-1b"


def test_a_model_trained_from_a_fine_tuned_model_names_the_original_base(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nbase_model: acme/small-1b\ntags:\n- fp8\n- falqon\n---\n"
    )
    assert card_fields(tmp_path, "ft:small:default::0011aabb")["base_model"] == "acme/small-1b"


@pytest.mark.parametrize(
    "name", ["ft:small:default::0011aabb", "/home/someone/model", "a/b/c", "a\nlicense: mit", ""]
)
def test_a_name_that_the_hub_refuses_is_no_base_model(name: str, tmp_path: Path) -> None:
    assert card_fields(tmp_path, name) == {}


def test_the_text_of_the_licence_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    target = tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in (
        "LICENSE",
        "LICENSE.md",
        "NOTICE.txt",
        "LICENSE.safetensors",
        "README.md",
        "USE_POLICY.md",
    ):
        (source / name).write_text(name)
    (source / "LICENSE_LONG.txt").write_bytes(b"x" * (MAX_FILE_BYTES + 1))

    copy_licence(source, target)

    assert {path.name: path.read_text() for path in target.iterdir()} == {
        name: name for name in ("LICENSE", "LICENSE.md", "NOTICE.txt")
    }
