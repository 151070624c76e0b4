"""The tools people download with, against the API as a process: what they get is right to the byte,
whatever they ask for.
"""

import hashlib
import io
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest

from tests.downloads.conftest import MODEL, SHA256, WEIGHTS
from tests.downloads.scale import SCALE
from tests.support.api_process import KEY, ApiProcess

ARTIFACTS = f"/v1/models/{MODEL}/artifacts"
BEARER = f"Authorization: Bearer {KEY}"


def run(*command: str, folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def link(server: ApiProcess, name: str) -> str:
    answer = server.http.post(f"/v1/models/{MODEL}/links", json={"name": name}).raise_for_status()
    return str(answer.json()["url"])


def test_random_ranges_are_exact(server: ApiProcess) -> None:
    rng = random.Random(17)
    size = len(WEIGHTS)
    url = f"{ARTIFACTS}/model.safetensors"
    edges = [(0, 0), (size - 1, size - 1), (0, size - 1), (size // 2, size + 10**6)]
    near = [
        (start, start + rng.randrange(100_000))
        for start in (rng.randrange(size) for _ in range(SCALE.ranges))
    ]
    for first, last in edges + near:
        part = server.http.get(
            url, headers={"range": f"bytes={first}-{last}", "if-range": f'"{SHA256}"'}
        )
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{min(last, size - 1)}/{size}"
        assert part.content == WEIGHTS[first : last + 1]


def test_curl_resumes_an_interrupted_download(server: ApiProcess, tmp_path: Path) -> None:
    url = f"{server.url}{ARTIFACTS}/model.safetensors?sha256={SHA256}"
    (tmp_path / "weights").write_bytes(WEIGHTS[:77_777_777])
    run("curl", "-sSf", "-C", "-", "-H", BEARER, "-o", "weights", url, folder=tmp_path)
    assert sha256_of(tmp_path / "weights") == SHA256
    run(
        "curl",
        "-sSf",
        "--etag-save",
        "etag",
        "-H",
        BEARER,
        "-o",
        "config",
        f"{server.url}{ARTIFACTS}/config.json",
        folder=tmp_path,
    )
    code = ["-w", "%{http_code}", "-o", "again"]
    again = [
        "curl",
        "-sS",
        "--etag-compare",
        "etag",
        "-H",
        BEARER,
        *code,
        f"{server.url}{ARTIFACTS}/config.json",
    ]
    assert (
        subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        == "304"
    )


def test_the_archive_unpacks_to_the_model(server: ApiProcess, tmp_path: Path) -> None:
    run(
        "bash",
        "-ec",
        f"curl -sSf -H '{BEARER}' {server.url}/v1/models/{MODEL}/archive | tar x",
        folder=tmp_path,
    )
    folder = tmp_path / "ft-base-acme-first-0011aabb"
    assert sha256_of(folder / "model.safetensors") == SHA256
    assert (folder / "nested" / "vocab.txt").read_text() == "a b c"
    head = server.http.head(f"/v1/models/{MODEL}/archive")
    whole = server.http.get(f"/v1/models/{MODEL}/archive")
    assert int(head.headers["content-length"]) == len(whole.content)
    assert head.headers["content-disposition"].endswith("ft-base-acme-first-0011aabb.tar")
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as archive:
        assert archive.getnames() == [
            f"{folder.name}/{name}"
            for name in ("config.json", "model.safetensors", "nested/vocab.txt")
        ]


@pytest.mark.parametrize(
    "command",
    [
        ("wget", "-q", "-O", "weights"),
        ("curl", "-sSf", "-o", "weights"),
        ("aria2c", "-q", "-x8", "-o", "weights"),
    ],
)
def test_a_link_serves_tools_without_headers(
    server: ApiProcess, tmp_path: Path, command: tuple[str, ...]
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} on this machine")
    run(*command, link(server, "model.safetensors"), folder=tmp_path)
    assert sha256_of(tmp_path / "weights") == SHA256


def test_memory_stays_flat_while_gigabytes_pass(server: ApiProcess) -> None:
    size = SCALE.streamed_bytes
    server.add_model("large", {"weights": (WEIGHTS[: 10**6] for _ in range(size // 10**6))})
    server.forget_peak()
    before = server.peak_bytes()
    for url in ("/v1/models/large/artifacts/weights", "/v1/models/large/archive"):
        with server.http.stream("GET", url) as answer:
            assert sum(map(len, answer.iter_raw())) >= size
    grown = server.peak_bytes() - before
    print(f"{2 * size / 1e9:.1f} GB streamed, {grown / 2**20:.1f} MiB more at the peak")  # noqa: T201
    assert grown < 50 * 2**20
    server.storage.delete("models/large/weights")


def test_many_readers_at_once(server: ApiProcess) -> None:
    """More than there are threads; none waits for another to end."""
    url = f"{server.url}{ARTIFACTS}/model.safetensors"
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(verify=False, timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        streams = [client.stream("GET", url, headers=headers) for _ in range(64)]
        answers = [stream.__enter__() for stream in streams]
        try:
            assert server.http.get(f"{ARTIFACTS}/config.json").content == b"{}"
        finally:
            for stream, answer in zip(streams, answers, strict=True):
                assert answer.status_code == 200
                stream.__exit__(None, None, None)
