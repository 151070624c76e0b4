"""The same promises on an object store, over HTTP against a server of its own; and the downloads
that it serves itself.
"""

import hashlib
import os
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from huggingface_hub import snapshot_download
from obstore.exceptions import BaseError
from typer.testing import CliRunner

from app.attempts.values import WorkerOffer
from app.auth import worker_tokens
from app.base.storage import Storage, keys
from app.base.storage.storage import PART_BYTES, KeyTaken
from app.catalogue.naming import hub_id
from app.cli import app
from app.jobs.claims import Claim
from tests.support.api import Api, Tenant, jsonl
from tests.support.api_process import KEY, ApiProcess
from tests.support.object_store import ObjectStore
from tests.support.proxy import Proxy
from worker.joined.gateway import JoinedGateway

MODEL = "ft:base:acme:first:0011aabb"
WEIGHTS = os.urandom(2 * PART_BYTES + 12345) + b"."
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def storage(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return Storage(f"{store.url}/tests")


@pytest.fixture(scope="module")
def server(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """The API on this store."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        server = ApiProcess(
            tmp_path_factory.mktemp("s3"), {"STORAGE_URL": f"{store.url}/objects"}, forked=True
        )
        server.add_model(MODEL, {"config.json": [b"{}"], "model.safetensors": [WEIGHTS]})
        yield server
        server.close()


def artifact(server: ApiProcess, **headers: str) -> httpx.Response:
    return server.http.get(
        f"/v1/models/{MODEL}/artifacts/model.safetensors",
        headers={n.replace("_", "-"): v for n, v in headers.items()},
    )


def test_an_object_is_read_as_it_was_written(
    store: ObjectStore, storage: Storage, tmp_path: Path
) -> None:
    stored = storage.put("several/parts", [WEIGHTS[:1000], WEIGHTS[1000:]])
    assert (stored.bytes, stored.sha256) == (len(WEIGHTS), SHA256)
    assert storage.fetch("several/parts", tmp_path / "copy") == stored
    assert (tmp_path / "copy").read_bytes() == WEIGHTS
    assert (
        b"".join(storage.chunks("several/parts", (5, PART_BYTES + 5)))
        == WEIGHTS[5 : PART_BYTES + 5]
    )
    assert storage.put("empty", []).bytes == 0
    assert sorted(storage.keys("")) == ["empty", "several/parts"]
    uploads = [request for request in store.requests() if "partNumber" in request]
    assert len(uploads) == 3, "in parts"
    storage.delete("several/parts", "missing", "empty")
    assert storage.keys("") == []


def test_the_store_is_given_the_hash_to_check(
    store: ObjectStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(urlsplit(store.endpoint).port or 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        Storage(f"{store.url}/tests").put("summed", [b"bytes"])
        (sent,) = proxy.heads("PUT /models/tests/summed")
    assert (
        sent["x-amz-checksum-sha256"]
        == b64encode(hashlib.sha256(b"bytes").digest()).decode().lower()
    )
    storage.delete("summed")


def test_a_stream_that_breaks_leaves_nothing(storage: Storage) -> None:
    def breaking() -> Iterator[bytes]:
        yield WEIGHTS
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        storage.put("broken", breaking())
    assert storage.keys("") == []


@pytest.mark.parametrize("content", [b"small", WEIGHTS], ids=["one part", "several"])
def test_a_key_is_written_once(storage: Storage, content: bytes) -> None:
    stored = storage.put("once", [content])
    assert storage.put("once", [content]) == stored, "whose answer was lost may send it again"
    with pytest.raises(KeyTaken):
        storage.put("once", [content[:-1] + b"?"])
    assert b"".join(storage.chunks("once")) == content
    storage.delete("once")


def test_one_of_several_simultaneous_writers_succeeds(storage: Storage) -> None:
    together = threading.Barrier(4)

    def write(number: int) -> int | None:
        together.wait()
        try:
            storage.put("raced", [b"%d" % number])
        except KeyTaken:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        written = [number for number in pool.map(write, range(4)) if number is not None]
    assert [b"%d" % number for number in written] == [b"".join(storage.chunks("raced"))]
    storage.delete("raced")


@pytest.mark.parametrize("num_bytes", [len(WEIGHTS), 2**40], ids=["copied", "too large to copy"])
def test_an_object_survives_a_later_untrusted_writer(storage: Storage, num_bytes: int) -> None:
    first = WEIGHTS[::-1]

    def interrupted() -> Iterator[bytes]:
        yield WEIGHTS
        storage.put("certified", [first])

    with pytest.raises(KeyTaken):
        storage.put_untrusted("certified", interrupted(), num_bytes, lambda: None)
    assert b"".join(storage.chunks("certified")) == first
    assert storage.keys("") == ["certified"]
    storage.delete("certified")
    stored = storage.put_untrusted("certified", [WEIGHTS], num_bytes, lambda: None)
    assert storage.put_untrusted("certified", [WEIGHTS], num_bytes, lambda: None) == stored
    assert b"".join(storage.chunks("certified")) == WEIGHTS
    storage.delete("certified")


def test_a_signed_address_is_of_one_object_and_ends(storage: Storage) -> None:
    storage.put("signed", [b"bytes"])
    url = storage.signed_url("signed", timedelta(minutes=15))
    assert url is not None
    query = parse_qs(urlsplit(url).query)
    assert (query["X-Amz-Expires"], query["X-Amz-SignedHeaders"]) == (["900"], ["host"])
    assert httpx.get(url).content == b"bytes"
    assert Storage("memory:///").signed_url("signed", timedelta(minutes=15)) is None
    storage.delete("signed")


def test_a_store_that_is_away_is_told(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = Storage("s3://models?retry_max_retries=0")
    with pytest.raises((BaseError, OSError)):
        away.put("a", [b"x"])


def test_the_api_sends_on_to_the_store(server: ApiProcess, store: ObjectStore) -> None:
    answer = artifact(server, range="bytes=5-9")
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(f"{store.endpoint}/models/objects/models/")
    assert answer.headers["etag"] == f'"{SHA256}"'
    assert answer.headers["cache-control"] == "no-store"
    head = server.http.head(f"/v1/models/{MODEL}/artifacts/model.safetensors")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(WEIGHTS)))
    assert artifact(server, if_none_match=f'"{SHA256}"').status_code == 304
    assert artifact(server, range=f"bytes={len(WEIGHTS)}-").status_code == 416


def test_every_kind_of_reader_follows(
    server: ApiProcess, store: ObjectStore, tmp_path: Path
) -> None:
    url = f"{server.url}/v1/models/{MODEL}/artifacts/model.safetensors"
    (tmp_path / "weights").write_bytes(WEIGHTS[:1_000_000])
    command = [
        "curl",
        "-sSfL",
        "-C",
        "-",
        "-o",
        "weights",
        "-H",
        f"Authorization: Bearer {KEY}",
        url,
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "weights").read_bytes() == WEIGHTS

    part = tmp_path / "model" / f".model.safetensors.{SHA256[:12]}.part"
    part.parent.mkdir()
    part.write_bytes(WEIGHTS[:1_000_000])
    options = ["--output", str(part.parent), "--base-url", server.url, "--api-key", KEY]
    done = CliRunner().invoke(app, ["download", MODEL, *options])
    assert done.exit_code == 0, done.stderr
    assert (part.parent / "model.safetensors").read_bytes() == WEIGHTS

    folder = snapshot_download(
        hub_id(MODEL), endpoint=f"{server.url}/hub", token=KEY, cache_dir=tmp_path / "cache"
    )
    assert Path(folder, "model.safetensors").read_bytes() == WEIGHTS

    link = server.http.post(f"/v1/models/{MODEL}/links", json={"name": "model.safetensors"}).json()[
        "url"
    ]
    subprocess.run(["wget", "-q", "-O", "linked", link], cwd=tmp_path, check=True)
    assert (tmp_path / "linked").read_bytes() == WEIGHTS
    archive = server.http.get(f"/v1/models/{MODEL}/archive")
    assert WEIGHTS in archive.content, "one tar is made here, whatever the storage"


def test_where_clients_cannot_reach_the_store_the_api_carries_the_bytes(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    server = ApiProcess(
        tmp_path,
        {"STORAGE_URL": f"{store.url}/carried", "FALQON_DOWNLOAD_REDIRECTS": "false"},
        forked=True,
    )
    try:
        server.add_model(MODEL, {"model.safetensors": [WEIGHTS]})
        assert artifact(server).content == WEIGHTS
        part = artifact(server, range="bytes=5-9", if_range=f'"{SHA256}"')
        assert (part.status_code, part.content, part.headers["content-range"]) == (
            206,
            WEIGHTS[5:10],
            f"bytes 5-9/{len(WEIGHTS)}",
        )
    finally:
        server.close()


def test_a_worker_that_cannot_follow_a_link_has_the_api_carry_the_bytes(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        api = Api("", tmp_path, storage_url=f"{store.url}/joined")
        stack.callback(api.stop)
        tenant = Tenant(api)
        stack.callback(tenant.http.close)
        tenant.job()
        with api.database.transaction() as session:
            _, secret = worker_tokens.create(session, "cluster", [tenant.project_id])
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # the only way to the store
        monkeypatch.setenv("NO_PROXY", "localhost")
        gateway = JoinedGateway(api.url.replace("127.0.0.1", "localhost"), secret, "spot")
        stack.callback(gateway.close)
        claimed = gateway.claim(WorkerOffer("cpu", 2, 1))
        assert claimed is not None
        claim = Claim(claimed.job.id, claimed.job.attempt, gateway.owner)
        (file,) = gateway.read_inputs(claim).files
        storage = gateway.storage_of(claim)
        for _ in range(2):
            assert storage.fetch(file.storage_key, tmp_path / "rows").sha256 == file.sha256
        assert (tmp_path / "rows").read_bytes() == jsonl()
        key = keys.checkpoint_prefix(tenant.project_id, claim.job_id, claim.attempt, 1) + "/rows"
        stored = gateway.storage_of(claim).put_file(key, tmp_path / "rows")
        assert (stored.sha256, api.storage.read(key)) == (file.sha256, jsonl())


def test_a_small_object_is_read_replaced_and_listed(storage: Storage) -> None:
    assert storage.read("marks/one") is None
    assert not storage.holds_any("marks/")
    for content in (b"1", b"22"):
        storage.replace("marks/one", content)
        assert storage.read("marks/one") == content
    assert storage.holds_any("marks/")
    ((listed,),) = storage.objects("marks/")
    assert (listed.key, listed.bytes) == ("marks/one", 2)
    assert abs(storage.now() - listed.modified) < timedelta(minutes=5)
    assert storage.address == "s3://models/tests"
