"""Files of what stands elsewhere: asked for by an address, read by a worker."""

import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from app.models import FileImport, Orphan, Scope
from app.operations import claims
from tests.contract.test_file_imports import MAPPING, context_of, parquet, work
from tests.support.api import Api, Tenant
from tests.support.object_store import ObjectStore
from tests.support.source_server import COMMIT, TOKEN, SourceServer, serving_sources
from tests.support.waiting import wait_for
from worker.operations.file_import import FileImportHandler

CSV = b"prompt,completion\na,b\n"
LINES = b'{"prompt":"a","completion":"b"}\n{"prompt":"c","completion":"d"}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[SourceServer]:
    with serving_sources() as server:
        yield server


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, server: SourceServer) -> Iterator[Api]:
    """May reach this machine, where the Hub stands too."""
    folder = tmp_path_factory.mktemp("sources")
    url = f"sqlite:///{folder / 'falqon.db'}"
    api = Api(url, folder, webhook_networks=["127.0.0.0/8"], hub_endpoint=server.url)
    yield api
    api.stop()


def ask(tenant: Tenant, source: str, **options: Any) -> httpx.Response:
    body = {"source": source, "purpose": "fine-tune"} | options
    return tenant.http.post("/v1/files", json=body)


def send_table(tenant: Tenant, **options: Any) -> httpx.Response:
    files = {"file": ("a.csv", CSV)}
    return tenant.http.post("/v1/files", data={"purpose": "fine-tune"}, files=files, **options)


def imported(tenant: Tenant, source: str, **options: Any) -> Any:
    answer = ask(tenant, source, **options)
    assert answer.status_code == 200, answer.text
    work(tenant)
    return tenant.http.get(f"/v1/files/{answer.json()['id']}").json()


def put_token(tenant: Tenant, kind: str, **secret: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {tenant.new_key(Scope.ADMIN)}"}
    return tenant.http.put(f"/v1/source_tokens/{kind}", json=secret, headers=headers)


def test_a_split_on_the_hub_is_read_at_its_commit(tenant: Tenant, server: SourceServer) -> None:
    shards = [parquet(question=["a"], answer=["b"]), parquet(question=["c"], answer=["d"])]
    server.datasets["acme/sums"] = {
        f"data/train-0000{number}-of-00002.parquet": shard for number, shard in enumerate(shards)
    } | {"README.md": b"", "data/test-00000-of-00001.parquet": b""}
    server.page_size = 2
    file = imported(tenant, "hf://acme/sums@main/train", mapping=json.loads(MAPPING))
    assert (file["status"], file["filename"]) == ("processed", "sums-train.jsonl")
    assert tenant.client.files.content(file["id"]).read() == LINES
    source = file["source"]
    assert (source["revision"], source["format"], source["num_records"]) == (COMMIT, "parquet", 2)
    assert source["sha256"] == hashlib.sha256(b"".join(shards)).hexdigest()
    assert source["bytes"] == sum(map(len, shards))
    assert source["status"] == "completed"


def test_a_private_data_set_is_read_with_the_project_s_token(
    tenant: Tenant, stranger: Tenant, server: SourceServer
) -> None:
    server.datasets["acme/secret"] = {"rows.jsonl": b'{"text": "a"}\n'}
    server.private = {"acme/secret"}
    answer = put_token(tenant, "hf", token=TOKEN)
    assert (answer.status_code, answer.json()["kind"]) == (200, "hf")
    assert TOKEN not in answer.text
    assert imported(tenant, "hf://acme/secret")["status"] == "processed"
    file = imported(stranger, "hf://acme/secret")
    assert (file["status"], file["source"]["error"]["code"]) == ("error", "source_not_found")
    assert "needs a token of this project" in file["status_details"]


def test_a_web_address_is_shown_without_its_signature(tenant: Tenant, server: SourceServer) -> None:
    server.files["/a/rows.csv"] = b"question,answer\na,b\nc,d\n"
    url = f"{server.url}/a/rows.csv"
    file = imported(tenant, f"{url}?signature=secret", mapping=json.loads(MAPPING))
    assert (file["status"], file["source"]["source"]) == ("processed", url)
    assert "signature=secret" in server.requests[-1][0]
    assert tenant.client.files.content(file["id"]).read() == LINES


def test_an_object_is_read_with_the_project_s_key_alone(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore("rows")
    try:
        for name, value in store.environment.items():  # of the service, which no project may use
            monkeypatch.setenv(name, value)
        httpx.put(f"{store.endpoint}/rows/a/b.jsonl", content=b'{"text": "a"}\n').raise_for_status()
        put_token(
            tenant,
            "s3",
            access_key_id="of-the-project",
            secret_access_key="theirs",
            endpoint=store.endpoint,
        )
        file = imported(tenant, "s3://rows/a/b.jsonl")
        assert (file["status"], file["filename"]) == ("processed", "b.jsonl")
        (signed,) = [line for line in store.requests() if "X-Amz-Signature" in line]
        assert "of-the-project" in signed
        missing = imported(tenant, "s3://rows/a/c.jsonl")
        assert missing["source"]["error"]["code"] == "source_not_found"
    finally:
        store.close()


def test_a_source_that_cannot_be_read_fails_with_its_job(
    tenant: Tenant, server: SourceServer
) -> None:
    file = ask(tenant, f"{server.url}/gone.csv").json()
    refusal = tenant.http.get(f"/v1/files/{file['id']}/content")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "file_not_ready")
    refusal = tenant.http.get(f"/hub/api/datasets/files/{file['id']}")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "file_not_ready")
    job = tenant.job(training_file=file["id"])
    work(tenant)
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).status == "failed"
    assert tenant.http.delete(f"/v1/files/{file['id']}").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"source": "file:///etc/passwd"}, "source"),
        ({"source": "hf://../../etc"}, "source"),
        ({"source": "https://169.254.169.254/latest"}, "source"),
        ({"source": "https://user:word@example.com/rows.csv"}, "source"),
        ({"source": "s3://bucket"}, "source"),
        ({"source": "x" * 3000}, "source"),
        ({"source": "hf://a/b", "purpose": "batch"}, "purpose"),
        ({"source": "hf://a/b", "mapping": {}}, "mapping"),
        ({"source": "hf://a/b", "path": "/"}, "path"),
        ({}, "source"),
    ],
)
def test_a_bad_source_is_refused_by_its_parameter(
    tenant: Tenant, body: dict[str, Any], param: str
) -> None:
    answer = tenant.http.post("/v1/files", json={"purpose": "fine-tune"} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_tables_and_sources_of_a_project_that_wait_are_limited(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(11):
        assert ask(tenant, "hf://acme/sums").status_code == 200
    monkeypatch.setattr("app.files.creation.MAX_IMPORTS", 12)
    key = {"Idempotency-Key": "the last"}
    last = send_table(tenant, headers=key)
    assert last.status_code == 200
    stored = tenant.stored()
    for answer in (ask(tenant, "hf://acme/sums"), send_table(tenant)):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (429, "too_many_file_imports")
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("10", "true")
        assert error["message"].startswith("12 file imports of this project are in progress")
    assert tenant.stored() == stored, "a table that is refused is not stored"
    assert send_table(tenant, headers=key).json()["id"] == last.json()["id"]
    tenant.upload(check=False)  # what is JSON lines is not counted
    upload = tenant.client.uploads.create(
        filename="a.csv", bytes=len(CSV), mime_type="text/csv", purpose="fine-tune"
    )
    part = tenant.client.uploads.parts.create(upload.id, data=CSV)
    before = tenant.num_rows(Orphan)
    impatient = tenant.client.with_options(max_retries=0)
    with pytest.raises(openai.RateLimitError) as caught:
        impatient.uploads.complete(upload.id, part_ids=[part.id])
    assert caught.value.code == "too_many_file_imports"
    assert tenant.num_rows(Orphan) == before, "the parts are not joined in vain"
    tenant.http.delete(f"/v1/files/{last.json()['id']}")
    assert tenant.client.uploads.complete(upload.id, part_ids=[part.id]).status == "completed"
    for file in tenant.http.get("/v1/files").json()["data"]:
        tenant.http.delete(f"/v1/files/{file['id']}")


def test_projects_take_turns(tenant: Tenant, stranger: Tenant) -> None:
    for who in (tenant, tenant, tenant, stranger):
        assert ask(who, "hf://acme/sums").status_code == 200
    turns: list[str] = []
    with tenant.api.database.transaction() as session:
        while claimed := claims.claim(session, FileImport, 60, after=(turns or [""])[-1]):
            turns.append(claimed.project_id)
    assert sorted(turns[:2]) == sorted([tenant.project_id, stranger.project_id])
    assert turns[2:] == [tenant.project_id] * 2


def test_a_slow_source_keeps_no_other_project_waiting(
    tenant: Tenant, stranger: Tenant, server: SourceServer
) -> None:
    server.files["/slow.csv"] = CSV
    server.pause = 0.5
    for _ in range(2):
        assert ask(tenant, f"{server.url}/slow.csv").status_code == 200
    context = context_of(tenant)
    handler = FileImportHandler(context)
    slow = threading.Thread(target=handler.poll)
    slow.start()
    try:
        wait_for(lambda: server.requests and server.requests[-1][0] == "/slow.csv")
        num_requests = len(server.requests)
        table = send_table(stranger).json()
        handler.poll()
        source = stranger.http.get(f"/v1/files/{table['id']}").json()["source"]
        assert source["status"] == "completed"
        assert len(server.requests) == num_requests, "the project's second source waits"
    finally:
        context.shutting_down.set()
        slow.join(60)
        server.pause = 0.0
    assert not slow.is_alive()
    work(tenant)


def test_tokens_are_listed_without_their_secret_and_deleted(tenant: Tenant) -> None:
    put_token(tenant, "s3", access_key_id="before", secret_access_key="it")
    put_token(tenant, "s3", access_key_id="AKIA", secret_access_key="shh", region="eu-west-1")
    headers = {"authorization": f"Bearer {tenant.new_key(Scope.ADMIN)}"}
    listed = tenant.http.get("/v1/source_tokens", headers=headers)
    (token,) = listed.json()["data"]
    assert token["kind"] == "s3"
    assert "shh" not in listed.text
    assert "AKIA" not in listed.text
    path = f"/v1/source_tokens/{token['id']}"
    assert tenant.http.delete(path, headers=headers).json()["deleted"]
    assert tenant.http.delete(path, headers=headers).status_code == 404
    refusal = put_token(tenant, "s3", access_key_id="AKIA", secret_access_key="")
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "secret_access_key")
