from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import update

from app.models import Event, File, Job, Scope, Submission
from tests.support.api import Tenant, jsonl

pytestmark = pytest.mark.both_databases

RETRY = {"x-stainless-retry-count": "1"}


def body(tenant: Tenant, **extra: Any) -> dict[str, Any]:
    return {
        "model": tenant.base_model,
        "training_file": tenant.upload(),
        "metadata": {"a": "1", "b": "2"},
    } | extra


def post(tenant: Tenant, body: dict[str, Any], **headers: str) -> httpx.Response:
    return tenant.http.post(
        "/v1/fine_tuning/jobs",
        json=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def at_once(
    tenant: Tenant, count: int, body: dict[str, Any], headers: dict[str, str]
) -> list[httpx.Response]:
    """The same request on `count` connections, sent when all of them are open."""
    barrier = Barrier(count)

    def send() -> httpx.Response:
        with httpx.Client(
            base_url=tenant.api.url, headers=dict(tenant.http.headers), timeout=30, verify=False
        ) as client:
            client.get("/v1/models")
            barrier.wait()
            return client.post("/v1/fine_tuning/jobs", json=body, headers=headers)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(send) for _ in range(count)]]


def test_the_same_key_and_body_are_the_same_job(tenant: Tenant) -> None:
    request = body(tenant)
    create = tenant.client.fine_tuning.jobs.create
    first = create(**request, extra_headers={"Idempotency-Key": "k"})
    before = tenant.num_rows(Job, Event)
    reordered = request | {"metadata": {"b": "2", "a": "1"}}
    assert create(**reordered, extra_headers={"Idempotency-Key": "k"}).id == first.id
    tenant.client.fine_tuning.jobs.cancel(first.id)
    again = create(**request, extra_headers={"Idempotency-Key": "k"})
    assert (again.id, again.status) == (first.id, "cancelled")
    assert tenant.num_rows(Job) == before[:1]


def test_the_same_key_with_another_body_is_refused(tenant: Tenant) -> None:
    request = body(tenant)
    first = post(tenant, request, idempotency_key="k").json()["id"]
    before = tenant.num_rows(Job, Event, Submission)
    with pytest.raises(openai.UnprocessableEntityError, match=first) as caught:
        tenant.client.fine_tuning.jobs.create(
            **request, seed=3, extra_headers={"Idempotency-Key": "k"}
        )
    assert (caught.value.code, caught.value.param) == ("idempotency_mismatch", "Idempotency-Key")
    assert caught.value.response.headers["x-should-retry"] == "false"
    clone = tenant.http.post(
        f"/v1/fine_tuning/jobs/{first}/clone", headers={"idempotency-key": "k"}
    )
    assert (clone.status_code, clone.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert tenant.num_rows(Job, Event, Submission) == before


def test_keys_belong_to_their_project(tenant: Tenant, stranger: Tenant) -> None:
    ids = {
        post(owner, body(owner), idempotency_key="k").json()["id"] for owner in (tenant, stranger)
    }
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_its_limits(tenant: Tenant, key: str) -> None:
    before = tenant.num_rows(Job)
    response = post(tenant, body(tenant), idempotency_key=key)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert tenant.num_rows(Job) == before


def test_a_refused_request_leaves_its_key_free(tenant: Tenant) -> None:
    request = body(tenant)
    before = tenant.num_rows(Submission)
    assert post(tenant, request | {"model": "nobody"}, idempotency_key="k").status_code == 400
    assert tenant.num_rows(Submission) == before
    assert post(tenant, request, idempotency_key="k").status_code == 200


def test_a_key_sent_at_once_on_many_connections_makes_one_job(tenant: Tenant) -> None:
    request = body(tenant)
    for number in range(4):
        responses = at_once(tenant, 6, request, {"idempotency-key": f"k{number}"})
        assert {response.status_code for response in responses} == {200}, [
            response.text for response in responses
        ]
        assert len({response.json()["id"] for response in responses}) == 1
    assert len(list(tenant.client.fine_tuning.jobs.list())) == 4


def test_a_bare_client_that_repeats_itself_gets_its_job(tenant: Tenant) -> None:
    request = body(tenant)
    first = post(tenant, request)
    assert post(tenant, request, **RETRY).json()["id"] == first.json()["id"]
    wanted_twice = post(tenant, request)
    assert wanted_twice.json()["id"] != first.json()["id"]
    assert post(tenant, request, **RETRY).json()["id"] == wanted_twice.json()["id"]
    assert post(tenant, request | {"seed": 5}, **RETRY).json()["id"] not in {
        first.json()["id"],
        wanted_twice.json()["id"],
    }


def test_a_repetition_whose_original_never_arrived_makes_the_job(tenant: Tenant) -> None:
    request = body(tenant)
    responses = at_once(tenant, 4, request, RETRY)
    assert len({response.json()["id"] for response in responses}) == 1
    assert len(list(tenant.client.fine_tuning.jobs.list())) == 1


def test_a_request_without_a_key_is_new_after_ten_minutes(tenant: Tenant) -> None:
    request = body(tenant)
    first = post(tenant, request).json()["id"]
    for seconds, same in ((590, True), (610, False)):
        with tenant.api.database.transaction() as session:
            earlier = datetime.now(UTC) - timedelta(seconds=seconds)
            session.execute(
                update(Submission).where(Submission.job_id == first).values(created_at=earlier)
            )
        assert (post(tenant, request, **RETRY).json()["id"] == first) is same


def test_a_repetition_with_another_key_of_the_project_is_another_request(tenant: Tenant) -> None:
    request = body(tenant)
    first = post(tenant, request).json()["id"]
    colleague = Tenant(tenant.api, Scope.WRITE, tenant.project_id)
    assert post(colleague, request, **RETRY).json()["id"] != first
    colleague.http.close()


def test_the_official_client_that_lost_the_answer_gets_the_job(tenant: Tenant) -> None:
    """Its transport breaks once the answer is there; the client then sends the request again by
    itself.
    """
    lost: list[str] = []

    class Lossy(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "POST" and not lost:
                response.read()
                lost.append(response.json()["id"])
                raise httpx.ReadError("the connection broke")
            return response

    http = httpx.Client(transport=Lossy(verify=False))
    client = openai.OpenAI(base_url=f"{tenant.api.url}/v1", api_key=tenant.key, http_client=http)
    job = client.fine_tuning.jobs.create(**body(tenant))
    assert [job.id] == lost
    assert len(list(tenant.client.fine_tuning.jobs.list())) == 1
    client.close()


def upload(tenant: Tenant, content: bytes, key: str, purpose: str = "fine-tune") -> httpx.Response:
    return tenant.http.post(
        "/v1/files",
        files={"file": ("rows.jsonl", content)},
        data={"purpose": purpose},
        headers={"idempotency-key": key},
    )


def test_the_same_key_and_bytes_are_the_same_file(tenant: Tenant, stranger: Tenant) -> None:
    first = upload(tenant, jsonl(), "k").json()
    assert upload(tenant, jsonl(), "k").json() == first
    in_parts = tenant.client.uploads.create(
        filename="rows.jsonl",
        purpose="fine-tune",
        bytes=len(jsonl()),
        mime_type="application/jsonl",
    )
    part = tenant.client.uploads.parts.create(in_parts.id, data=jsonl())
    for _ in range(2):
        completed = tenant.client.uploads.complete(
            in_parts.id, part_ids=[part.id], extra_headers={"Idempotency-Key": "k"}
        )
        assert completed.file is not None
        assert completed.file.id == first["id"]
    listed = tenant.client.files.list(extra_query={"idempotency_key": "k"}).data
    assert [file.id for file in listed] == [first["id"]]
    assert tenant.client.files.list(extra_query={"idempotency_key": "other"}).data == []
    assert len(tenant.client.files.list().data) == 1

    for other in (upload(tenant, jsonl(3), "k"), upload(tenant, jsonl(), "k", "batch")):
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_mismatch"
        assert first["id"] in other.json()["error"]["message"]
    assert upload(stranger, jsonl(3), "k").json()["id"] != first["id"]

    tenant.client.files.delete(first["id"])
    assert upload(tenant, jsonl(3), "k").json()["id"] != first["id"]


@pytest.mark.parametrize("has_room_for_others", [True, False])
def test_simultaneous_uploads_with_one_key_make_one_file(
    tenant: Tenant, has_room_for_others: bool
) -> None:
    before = tenant.num_rows(File)
    if not has_room_for_others:
        tenant.limit(max_storage_bytes=len(jsonl()))
    barrier = Barrier(6)

    def send() -> httpx.Response:
        barrier.wait()
        return upload(tenant, jsonl(), "k")

    with ThreadPoolExecutor(6) as pool:
        responses = [future.result() for future in [pool.submit(send) for _ in range(6)]]
    assert {response.status_code for response in responses} == {200}
    assert len({response.json()["id"] for response in responses}) == 1
    assert tenant.num_rows(File) == [before[0] + 1]


def test_the_same_key_and_source_are_the_same_file(tenant: Tenant) -> None:
    def ask(key: str, source: str) -> httpx.Response:
        request = {"source": source, "purpose": "fine-tune"}
        return tenant.http.post("/v1/files", json=request, headers={"idempotency-key": key})

    first = ask("k", "hf://acme/rows").json()
    assert ask("k", "hf://acme/rows").json()["id"] == first["id"]
    assert ask("other", "hf://acme/rows").json()["id"] != first["id"]
    for other in (ask("k", "hf://acme/more"), upload(tenant, jsonl(), "k")):
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_mismatch"
    assert len(tenant.client.files.list().data) == 2
