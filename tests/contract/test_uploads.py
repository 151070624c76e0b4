import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import update

from app.base.database import now_plus
from app.client.api import Api as FalqonApi
from app.client.command import Client
from app.client.connection import Connection
from app.client.output import Output
from app.client.uploading import complete
from app.models import Upload, UploadPart
from tests.support.api import Tenant, jsonl

CONTENT = jsonl(100)


def begin(tenant: Tenant, num_bytes: int = len(CONTENT), **extra: Any) -> str:
    request = {
        "bytes": num_bytes,
        "filename": "rows.jsonl",
        "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    } | extra
    return str(tenant.client.uploads.create(**request).id)


def send(tenant: Tenant, upload_id: str, *contents: bytes) -> list[str]:
    return [tenant.client.uploads.parts.create(upload_id, data=content).id for content in contents]


def refusal(call: Callable[[], object]) -> tuple[int, str | None, str | None]:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value.status_code, caught.value.param, caught.value.code


def test_the_official_client_uploads_a_file_in_parts(tenant: Tenant, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(CONTENT)
    upload = tenant.client.uploads.upload_file_chunked(
        file=tmp_path / "rows.jsonl",
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=1000,
        md5=hashlib.md5(CONTENT).hexdigest(),
    )
    assert (upload.object, upload.status, upload.bytes, upload.purpose) == (
        "upload",
        "completed",
        len(CONTENT),
        "fine-tune",
    )
    assert upload.expires_at == upload.created_at + 3600
    file = upload.file
    assert file is not None
    assert (file.id, file.status, file.filename, file.bytes) == (
        file.id,
        "uploaded",
        "rows.jsonl",
        len(CONTENT),
    )
    assert tenant.client.files.content(file.id).read() == CONTENT
    assert (
        tenant.client.files.with_raw_response.content(file.id).headers["etag"]
        == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    )
    tenant.check(file.id)
    assert tenant.client.files.retrieve(file.id).status == "processed"
    assert tenant.job(training_file=file.id).status == "queued"


def test_the_file_gets_the_lifetime_that_was_asked_for(tenant: Tenant) -> None:
    upload_id = begin(
        tenant, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    file = tenant.client.uploads.complete(upload_id, part_ids=send(tenant, upload_id, CONTENT)).file
    assert file is not None
    assert (file.status, file.purpose, file.expires_at) == (
        "processed",
        "batch",
        file.created_at + 7200,
    )


def test_completing_twice_is_completing_once(tenant: Tenant) -> None:
    upload_id = begin(tenant)
    part_ids = send(tenant, upload_id, CONTENT[:9], CONTENT[9:])
    first = tenant.client.uploads.complete(upload_id, part_ids=part_ids)
    assert tenant.client.uploads.complete(upload_id, part_ids=part_ids) == first
    assert first.file is not None
    tenant.client.files.delete(first.file.id)
    assert tenant.client.uploads.complete(upload_id, part_ids=part_ids).file is None
    complete = tenant.client.uploads.complete
    assert refusal(lambda: complete(upload_id, part_ids=part_ids[::-1])) == (
        400,
        "upload_id",
        "upload_completed",
    )


def test_completing_at_once_from_many_sides_makes_one_file(tenant: Tenant) -> None:
    upload_id = begin(tenant)
    part_ids = send(tenant, upload_id, CONTENT[:9], CONTENT[9:])
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: tenant.client.uploads.complete(upload_id, part_ids=part_ids), range(8)
            )
        )
    assert all(answer == answers[0] for answer in answers)
    assert len(list(tenant.client.files.list())) == 1


@pytest.mark.parametrize("client", ["the official one", "falqon"])
def test_a_client_waits_for_the_end_of_another_completion(
    tenant: Tenant, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = begin(tenant)
    part_ids = send(tenant, upload_id, CONTENT)
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Upload).where(Upload.id == upload_id).values(lease_expires_at=now_plus(1.5))
        )
    path = f"/uploads/{upload_id}"
    early = tenant.http.post(f"/v1{path}/complete", json={"part_ids": part_ids})
    assert (early.status_code, early.json()["error"]["code"]) == (409, "completion_in_progress")
    if client == "falqon":
        monkeypatch.setattr(FalqonApi, "repeat_after_seconds", ())  # it waits for longer than that
        falqon = FalqonApi(Connection(f"{tenant.api.url}/v1", tenant.key))
        file = complete(Client(falqon, Output(as_json=True)), path, {"part_ids": part_ids})
        falqon.close()
        assert file["bytes"] == len(CONTENT)
    else:
        upload = tenant.client.uploads.complete(upload_id, part_ids=part_ids)
        assert upload.status == "completed"


def test_cancelling_is_final_and_may_be_repeated(tenant: Tenant) -> None:
    upload_id = begin(tenant)
    part_ids = send(tenant, upload_id, CONTENT)
    uploads = tenant.client.uploads
    assert uploads.cancel(upload_id).status == uploads.cancel(upload_id).status == "cancelled"
    gone = (400, "upload_id", "upload_cancelled")
    assert refusal(lambda: uploads.complete(upload_id, part_ids=part_ids)) == gone
    assert refusal(lambda: uploads.parts.create(upload_id, data=CONTENT)) == gone
    done = begin(tenant)
    uploads.complete(done, part_ids=send(tenant, done, CONTENT))
    assert refusal(lambda: uploads.cancel(done)) == (400, "upload_id", "upload_completed")


def test_an_upload_with_wrong_bytes_is_refused(tenant: Tenant) -> None:
    upload_id = begin(tenant)
    a, b = send(tenant, upload_id, CONTENT[:10], CONTENT[10:])
    uploads = tenant.client.uploads
    stored = tenant.stored()

    def complete(part_ids: list[str], **extra: Any) -> tuple[int, str | None, str | None]:
        return refusal(lambda: uploads.complete(upload_id, part_ids=part_ids, **extra))

    assert complete([a]) == (400, "part_ids", "bytes_mismatch")
    assert complete([a, a]) == (400, "part_ids", "invalid_value")
    assert complete([]) == (400, "part_ids", "invalid_value")
    assert complete([a, "part_x"]) == (400, "part_ids", "part_not_found")
    other = send(tenant, begin(tenant), CONTENT)
    assert complete(other) == (400, "part_ids", "part_not_found")
    stored = tenant.stored()
    assert complete([a, b], md5=hashlib.md5(b"other").hexdigest()) == (400, "md5", "md5_mismatch")
    assert complete([a, b], md5="short") == (400, "md5", "invalid_value")
    assert tenant.stored() == stored, "a refused file leaves no bytes"
    assert list(tenant.client.files.list()) == []
    assert (
        uploads.complete(
            upload_id, part_ids=[a, b], md5=hashlib.md5(CONTENT).hexdigest().upper()
        ).status
        == "completed"
    )


def test_parts_have_limits(tenant: Tenant) -> None:
    create = tenant.client.uploads.parts.create
    upload_id = begin(tenant, 10)
    assert refusal(lambda: create(upload_id, data=b"")) == (400, "data", "invalid_value")
    assert refusal(lambda: create(upload_id, data=b"x" * 11)) == (400, "data", "too_many_bytes")
    send(tenant, upload_id, b"x" * 10, b"x" * 10)
    assert refusal(lambda: create(upload_id, data=b"x")) == (400, "data", "too_many_bytes")
    large = begin(tenant, 200 * 2**20)
    stored = tenant.stored()
    for num_bytes in (64 * 2**20 + 1, 66 * 2**20):  # within and beyond what multipart adds
        assert refusal(lambda n=num_bytes: create(large, data=bytes(n))) == (
            413,
            "data",
            "request_too_large",
        )  # type: ignore[misc]
    assert tenant.stored() == stored


REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "more than the service keeps": ({"bytes": 8 * 2**30 + 1}, 413, "bytes", "request_too_large"),
    "no bytes": ({"bytes": 0}, 400, "bytes", "invalid_value"),
    "negative bytes": ({"bytes": -1}, 400, "bytes", "invalid_value"),
    "bytes as text": ({"bytes": "1"}, 400, "bytes", "invalid_value"),
    "bytes as a float": ({"bytes": 1.0}, 400, "bytes", "invalid_value"),
    "a huge number": ({"bytes": 10**30}, 413, "bytes", "request_too_large"),
    "a purpose of ours": ({"purpose": "fine-tune-results"}, 400, "purpose", "invalid_value"),
    "a path": ({"filename": "../x"}, 400, "filename", "invalid_filename"),
    "NUL": ({"filename": "a\0b"}, 400, "filename", "invalid_value"),
    "a lone surrogate": ({"filename": "a\ud800b"}, 400, "filename", "invalid_value"),
    "a lone surrogate as type": ({"mime_type": "\ud800"}, 400, "mime_type", "invalid_value"),
    "no name": ({"filename": None}, 400, "filename", "invalid_value"),
    "an unknown field": ({"colour": "red"}, 400, "colour", "unknown_parameter"),
    "a short life": (
        {"expires_after": {"anchor": "created_at", "seconds": 3599}},
        400,
        "expires_after.seconds",
        "invalid_value",
    ),
    "half a life": (
        {"expires_after": {"seconds": 3600}},
        400,
        "expires_after.anchor",
        "missing_required_parameter",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_upload_says_why_and_leaves_nothing(tenant: Tenant, kind: str) -> None:
    fields, status, param, code = REFUSED[kind]
    before = tenant.num_rows(Upload)
    request = {
        "bytes": 10,
        "filename": "a",
        "mime_type": "text/plain",
        "purpose": "fine-tune",
    } | fields
    answer = tenant.http.post(
        "/v1/uploads", content=json.dumps(request), headers={"content-type": "application/json"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), error
    assert tenant.num_rows(Upload) == before


def test_a_part_needs_its_field(tenant: Tenant) -> None:
    upload_id = begin(tenant)
    before = tenant.num_rows(UploadPart)
    path = f"/v1/uploads/{upload_id}/parts"
    for sent, param in (
        ({"files": {"file": b"x"}}, "data"),
        ({"data": {"data": "x"}}, "data"),
        ({"json": {"data": "x"}}, "data"),
    ):
        answer = tenant.http.post(path, **sent)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert tenant.num_rows(UploadPart) == before
