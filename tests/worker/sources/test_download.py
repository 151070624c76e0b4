import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.base.outbound.addresses import Networks
from tests.support.source_server import SourceServer, serving_sources
from worker.sources import checked_socket, download
from worker.sources.download import Downloader, SourceRefused, SourceUnavailable
from worker.sources.hub import choose_files

LOOPBACK: Networks = [ip_network("127.0.0.0/8")]
LIMIT = 10**6


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with serving_sources() as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.01)


def fetch(url: str, target: Path, networks: Networks = LOOPBACK) -> str | None:
    headers = {"authorization": "Bearer secret"}
    return Downloader(networks, lambda: None).fetch(url, target, headers, LIMIT)


def test_a_broken_connection_is_continued(server: SourceServer, tmp_path: Path) -> None:
    server.files["/rows"] = bytes(range(256)) * 1000
    server.breaks = 2
    version = fetch(f"{server.url}/rows", tmp_path / "rows")
    assert (tmp_path / "rows").read_bytes() == server.files["/rows"]
    assert version is not None
    ranges = [headers.get("range") for _, headers in server.requests]
    assert ranges == [None, "bytes=128000-", "bytes=192000-"]


def test_a_download_that_breaks_repeatedly_may_be_retried_later(
    server: SourceServer, tmp_path: Path
) -> None:
    server.files["/rows"] = b"a" * 1000
    server.breaks = 99
    with pytest.raises(SourceUnavailable, match="ended before the file did"):
        fetch(f"{server.url}/rows", tmp_path / "rows")
    assert len(server.requests) == download.MAX_RESUMPTIONS + 1


def test_redirects_are_followed_without_the_token_of_another_host(
    server: SourceServer, tmp_path: Path
) -> None:
    with serving_sources() as other:
        other.files["/rows"] = b"rows"
        server.redirects = {"/a": "/b", "/b": f"{other.url}/rows"}
        fetch(f"{server.url}/a", tmp_path / "rows")
        assert (tmp_path / "rows").read_bytes() == b"rows"
        sent = [headers.get("authorization") for _, headers in server.requests + other.requests]
        assert sent == ["Bearer secret", "Bearer secret", None]


def test_private_addresses_are_refused_also_behind_a_redirect(
    server: SourceServer, tmp_path: Path
) -> None:
    server.redirects = {"/a": "http://169.254.169.254/latest/meta-data"}
    with pytest.raises(SourceRefused, match="not a public one"):
        fetch(f"{server.url}/a", tmp_path / "rows")
    with pytest.raises(SourceRefused, match="only https is accepted"):
        fetch(f"{server.url}/a", tmp_path / "rows", networks=[])
    with pytest.raises(SourceRefused, match="not a public one"):
        fetch(f"https://localhost:{server.url.rpartition(':')[2]}/", tmp_path / "rows", [])
    assert len(server.requests) == 1


def test_an_unavailable_source_is_refused(server: SourceServer, tmp_path: Path) -> None:
    server.files["/large"] = b"a" * (LIMIT + 1)
    server.redirects = {"/round": "/round"}
    for path, code in (
        ("/gone", "source_not_found"),
        ("/large", "source_too_large"),
        ("/round", "source_refused"),
    ):
        with pytest.raises(SourceRefused) as refusal:
            fetch(f"{server.url}{path}", tmp_path / "rows")
        assert refusal.value.code == code


def test_a_dripping_download_is_checked_throughout(server: SourceServer, tmp_path: Path) -> None:
    server.files["/rows"] = b"a" * 30
    until = time.monotonic() + 0.5

    def give_up() -> None:
        if time.monotonic() > until:
            raise InterruptedError

    server.pause = 0.1  # the head has more than a hundred bytes
    with pytest.raises(InterruptedError):
        Downloader(LOOPBACK, give_up).fetch(f"{server.url}/rows", tmp_path / "rows", {}, LIMIT)
    assert time.monotonic() < until + 5


@pytest.mark.parametrize("pause", [0.001, 0.2])
def test_a_source_that_hardly_sends_is_refused(
    server: SourceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr(checked_socket, "RATE_SECONDS", 0.5)
    server.files["/rows"] = b"a" * 3000
    server.pause = pause
    with pytest.raises(SourceRefused, match="fewer than 10 KiB a second") as refusal:
        fetch(f"{server.url}/rows", tmp_path / "rows")
    assert refusal.value.code == "source_too_slow"
    assert len(server.requests) == 1


SHARDS = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
CONFIGS = ["main/train-0.parquet", "socratic/train-0.parquet"]


@pytest.mark.parametrize(
    ("paths", "path", "chosen"),
    [
        ([*SHARDS, "data/test-0.parquet", "README.md"], "train", SHARDS),
        (["train.jsonl", "train.csv", "validation.jsonl"], "train", ["train.jsonl"]),
        (["en/train/0.parquet", "en/test/0.parquet"], "train", ["en/train/0.parquet"]),
        (CONFIGS, "main/train", CONFIGS[:1]),
        (["a/b.txt", "rows.json", "README.md"], "", ["rows.json"]),
        (["a/pretrain.jsonl", "train_sft.jsonl"], "train", ["train_sft.jsonl"]),
        (["a/b c.csv", "train.csv"], "a/b c.csv", ["a/b c.csv"]),
    ],
)
def test_files_of_a_split(paths: list[str], path: str, chosen: list[str]) -> None:
    assert choose_files(paths, path) == chosen


@pytest.mark.parametrize(
    ("paths", "path", "message"),
    [
        (CONFIGS, "train", "several files of 'train'; say which: main/train, socratic/train"),
        (SHARDS, "test", f"no file of 'test'; it has {SHARDS[0]}, {SHARDS[1]}"),
        (SHARDS, "", "Name a split or a file; it has data/train-0"),
        (["README.md"], "train", "it has no Parquet, JSON or CSV"),
    ],
)
def test_a_missing_or_ambiguous_split_is_refused(paths: list[str], path: str, message: str) -> None:
    with pytest.raises(SourceRefused) as refusal:
        choose_files(paths, path)
    assert message in refusal.value.message
