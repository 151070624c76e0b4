"""`falqon download` against an API that dies under it, and dying itself."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.downloads.conftest import MODEL, WEIGHTS, serving
from tests.downloads.scale import SCALE
from tests.support.api_process import KEY, ApiProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with serving(tmp_path_factory.mktemp("server"), forked=True) as server:
        yield server


def download(server: ApiProcess, folder: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "download",
        MODEL,
        "--output",
        str(folder),
        "--base-url",
        server.url,
        "--api-key",
        KEY,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def has_grown(folder: Path, process: subprocess.Popen[str], beyond: int) -> bool:
    """Waits until so much of the weights is there; false when the download was quicker than we
    looked.
    """
    while process.poll() is None:
        if any(path.stat().st_size > beyond for path in folder.glob(".model.safetensors.*.part")):
            return True
        time.sleep(0.0005)
    return False


def assert_whole(process: subprocess.Popen[str], folder: Path) -> None:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "3 files" in out
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ) == ["config.json", "model.safetensors", "nested/vocab.txt"]


def test_the_server_is_killed_again_and_again(server: ApiProcess, folder: Path) -> None:
    process = download(server, folder)
    killed = 0
    for number in range(SCALE.server_kills):
        if has_grown(folder, process, number * len(WEIGHTS) // SCALE.server_kills):
            server.kill()
            killed += 1
            server.start()
    assert_whole(process, folder)
    assert killed >= max(1, SCALE.server_kills * 2 // 3)


def test_the_download_is_killed_again_and_again(server: ApiProcess, folder: Path) -> None:
    killed = 0
    for number in range(SCALE.client_kills):
        process = download(server, folder)
        if has_grown(folder, process, number * len(WEIGHTS) // SCALE.client_kills):
            process.kill()
            killed += 1
        process.communicate()
        assert not (folder / "model.safetensors").exists() or process.returncode == 0
    assert killed >= max(1, SCALE.client_kills * 2 // 3)
    assert_whole(download(server, folder), folder)
