from collections.abc import Callable
from pathlib import Path

import pytest

from app.base.storage import Storage, keys
from tests.support.traversal import NAMES

BUILDERS: list[Callable[[str], str]] = [
    lambda name: keys.base_model_file("base", name),
    lambda name: keys.base_model_file(name, "config.json"),
    lambda name: keys.result_file("proj", "job", 1, name),
]


@pytest.mark.parametrize("build", BUILDERS)
def test_a_name_leads_downwards_or_is_refused(build: Callable[[str], str], tmp_path: Path) -> None:
    storage = Storage((tmp_path / "objects").as_uri())
    refused = 0
    (tmp_path / "canary").write_text("whole")
    for name in NAMES:
        try:
            key = build(name)
        except ValueError:
            refused += 1
            continue
        storage.put(key, [b"x"])
        path = storage.local_path(key)
        assert path is not None
        assert path.resolve().is_relative_to(tmp_path / "objects")
        assert path.read_bytes() == b"x", "both ways to an object lead to the same place"
    assert refused > 150
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary", "objects"]
    assert (tmp_path / "canary").read_text() == "whole"


def test_ordinary_names_are_kept() -> None:
    for name in (
        "config.json",
        "model-00001-of-00002.safetensors",
        "sub/LICENSE",
        "Lizenz (neu).txt",
        ".gitattributes",
        "a..b",
    ):
        assert keys.relative(name) == name
