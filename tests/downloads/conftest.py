import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.api_process import ApiProcess

MODEL = "ft:base:acme:first:0011aabb"
MIB = 2**20
WEIGHTS = os.urandom(MIB) * 140 + os.urandom(MIB // 3)  # two blocks and a part of one
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@contextmanager
def serving(folder: Path, *, forked: bool) -> Iterator[ApiProcess]:
    server = ApiProcess(folder, forked=forked)
    server.add_model(
        MODEL,
        {"config.json": [b"{}"], "model.safetensors": [WEIGHTS], "nested/vocab.txt": [b"a b c"]},
    )
    yield server
    server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with serving(tmp_path_factory.mktemp("server"), forked=False) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"
