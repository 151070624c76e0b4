import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from falqon_core.importers.tiny import build_tiny

WORDS = [
    "the",
    "shop",
    "sells",
    "lamps",
    "bells",
    "ropes",
    "maps",
    "tea",
    "and",
    "seven",
    "blue",
    "kettles",
    "for",
    "nine",
    "coins",
    "each",
    "every",
    "market",
    "day",
    "at",
    "dawn",
]


@pytest.fixture(scope="session", autouse=True)
def _verdicts_of_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What kernels proved here is forgotten with the tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def certified_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are certified in this process."""
    from tests.falqon_core.verification import here

    monkeypatch.setattr(here.NAME, here.SUBPROCESS)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "falqon-tiny"
    build_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty chat records of different lengths."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    with path.open("w") as file:
        for number in range(30):
            answer = " ".join(WORDS[(number + step) % len(WORDS)] for step in range(4 + number % 9))
            messages = [
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path
