import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client.download import _inside
from app.client.errors import Refused
from tests.app.client.conftest import Falqon
from tests.support.local_server import QuietHandler, serving_by
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service
from tests.support.traversal import NAMES

MODEL = "falqon-tiny"


def is_whole(falqon: Falqon, folder: Path) -> bool:
    """Exactly the files that the service lists, byte for byte."""
    manifest = json.loads(
        falqon("download", MODEL, "--output", str(folder / "again"), "--json").stdout
    )
    expected = {file["name"]: file["sha256"] for file in manifest["files"]}
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }
    return hashes == expected


def test_every_file_arrives(falqon: Falqon, tmp_path: Path) -> None:
    done = falqon("download", MODEL)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("falqon-tiny: 7 files, ")
    assert is_whole(falqon, tmp_path / "falqon-tiny")


def test_a_cut_download_resumes_at_the_broken_byte(
    falqon: Falqon, service: Service, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.cut_after = 100_000
    done = falqon("download", MODEL, "--output", "model", "--base-url", proxy.url, "--api-key", KEY)
    assert done.exit_code == 0, done.stderr
    assert is_whole(falqon, tmp_path / "model")
    assert proxy.lost >= 3
    ranges = [
        head["range"]
        for head in proxy.heads("GET /v1/models/falqon-tiny/artifacts/model.safetensors")
        if "range" in head
    ]
    starts = [int(value.removeprefix("bytes=").partition("-")[0]) for value in ranges]
    assert starts == sorted(set(starts))
    assert len(starts) >= 3


def test_a_repeated_download_continues_and_fetches_nothing_twice(
    falqon: Falqon, proxy: Proxy, tmp_path: Path
) -> None:
    assert falqon("download", MODEL, "--output", "model").exit_code == 0
    weights = tmp_path / "model" / "model.safetensors"
    content = weights.read_bytes()
    part = weights.with_name(f".model.safetensors.{hashlib.sha256(content).hexdigest()[:12]}.part")
    weights.unlink()
    part.write_bytes(content[:1000])
    (tmp_path / "model" / "config.json").write_text("not what it was")
    done = falqon("download", MODEL, "--output", "model", "--base-url", proxy.url, "--api-key", KEY)
    assert done.exit_code == 0, done.stderr
    assert is_whole(falqon, tmp_path / "model")
    fetched = [head.split(" ")[1].rpartition("/")[2].partition("?")[0] for head in proxy.requests]
    assert fetched == ["manifest.json", "config.json", "model.safetensors"]
    (head, *_) = proxy.heads("GET /v1/models/falqon-tiny/artifacts/model.safetensors")
    assert head["range"] == f"bytes=1000-{len(content) - 1}"


def test_a_damaged_part_of_a_download_is_fetched_again(falqon: Falqon, tmp_path: Path) -> None:
    assert falqon("download", MODEL, "--output", "model").exit_code == 0
    weights = tmp_path / "model" / "model.safetensors"
    content = weights.read_bytes()
    part = weights.with_name(f".model.safetensors.{hashlib.sha256(content).hexdigest()[:12]}.part")
    for damaged in (b"x" * 1000, b"x" * (len(content) + 5)):
        weights.unlink()
        part.write_bytes(damaged)
        assert falqon("download", MODEL, "--output", "model").exit_code == 0
        assert weights.read_bytes() == content


def test_a_download_that_cannot_be_written_is_reported(falqon: Falqon, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file where the folder would be")
    done = falqon("download", MODEL, "--output", "model")
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    assert falqon("download", "nobody/knows").exit_code == 3


class Hostile(QuietHandler):
    manifest: dict[str, object] = {}

    def do_GET(self) -> None:
        of_model = self.path.endswith("manifest.json")
        self.send(200, json.dumps(self.manifest).encode() if of_model else b"evil")


def manifest_of(name: str, sha256: str) -> dict[str, object]:
    file = {
        "name": name,
        "bytes": 4,
        "sha256": sha256,
        "url": "weights",
        "block_bytes": 4,
        "block_sha256": [sha256],
    }
    return {"model": "m", "bytes": 4, "files": [file]}


@pytest.fixture
def hostile() -> Iterator[str]:
    with serving_by(Hostile) as url:
        yield url


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/../../evil", "", ".", "a\\..\\evil", "a\nb", "link/evil"]
)
def test_names_that_lead_elsewhere_are_refused(
    falqon: Falqon, hostile: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to(tmp_path)
    Hostile.manifest = manifest_of(name, hashlib.sha256(b"evil").hexdigest())
    done = falqon("download", "m", "--output", "model", "--base-url", hostile, "--api-key", "x")
    assert done.exit_code == 1, done.stdout
    assert not list(tmp_path.rglob("*evil"))


def test_no_name_of_the_service_lands_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "model"
    refused = 0
    for name in NAMES:
        try:
            assert _inside(folder, name).resolve().is_relative_to(folder)
        except Refused:
            refused += 1
    assert refused > 100


def test_bytes_that_are_not_what_was_promised_are_not_kept(
    falqon: Falqon, hostile: str, tmp_path: Path
) -> None:
    Hostile.manifest = manifest_of("weights", "0" * 64)
    done = falqon("download", "m", "--output", "model", "--base-url", hostile, "--api-key", "x")
    assert done.exit_code == 1
    assert "arrived damaged" in done.stderr
    assert list((tmp_path / "model").iterdir()) == []
