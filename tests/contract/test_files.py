import io

import httpx
import openai
import pytest

from app.models import File
from tests.support.api import Tenant, jsonl

FAULTS = {
    "not JSON": (jsonl(2) + b"{oops}\n", "line 3, column 2"),
    "not UTF-8": (b"\xff\xfe\n", "UTF-8"),
    "no assistant": (b'{"messages": [{"role": "user", "content": "hi"}]}\n', "assistant"),
    "two shapes": (jsonl(1) + b'{"text": "hi"}\n', "line 2"),
    "only blank lines": (b"\n\n", "empty"),
}


def test_a_file_is_uploaded_then_processed(tenant: Tenant) -> None:
    content = jsonl()
    file = tenant.client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "rows.jsonl", "fine-tune")
    assert file.status == "uploaded"
    assert file.id.startswith("file-")
    tenant.check(file.id)
    file = tenant.client.files.wait_for_processing(file.id, poll_interval=0.01)
    assert file.status == "processed"
    assert file.status_details == "12 records (messages)"
    assert file.report["num_records"] == 12
    report = tenant.http.get(f"/v1/files/{file.id}/report").json()
    assert report["status"] == "processed"
    assert report["report"] == file.report


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_file_says_where(tenant: Tenant, kind: str) -> None:
    content, words = FAULTS[kind]
    file = tenant.client.files.retrieve(tenant.upload(content))
    assert file.status == "error"
    assert words in file.status_details
    assert file.report["errors"][0]["line"] >= 1


def test_checking_twice_changes_nothing(tenant: Tenant) -> None:
    file_id = tenant.upload()
    before = tenant.client.files.retrieve(file_id)
    assert tenant.check(file_id) == []
    assert tenant.client.files.retrieve(file_id) == before
    assert tenant.check("file-that-is-not-there") == []


def test_raw_bytes_come_back(tenant: Tenant) -> None:
    content = jsonl(50)
    file_id = tenant.upload(content)
    assert tenant.client.files.content(file_id).read() == content
    with tenant.client.files.with_streaming_response.content(file_id) as response:
        assert b"".join(response.iter_bytes()) == content
    part = tenant.client.files.with_raw_response.content(file_id, extra_headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == content[10:20]


def test_names_are_display_text_only(tenant: Tenant) -> None:
    for sent, shown in {"../../etc/passwd": "passwd", "C:\\x\\r\u00fcckblick.jsonl": "r\u00fcckblick.jsonl"}.items():
        file = tenant.client.files.create(file=(sent, jsonl()), purpose="fine-tune")
        assert file.filename == shown
        assert tenant.client.files.content(file.id).read() == jsonl()
    assert tenant.client.files.create(file=io.BytesIO(jsonl()), purpose="fine-tune").filename == "upload"


def test_pages_end_and_follow_the_order(tenant: Tenant) -> None:
    ids = [tenant.upload(check=False) for _ in range(5)]
    assert [file.id for file in tenant.client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in tenant.client.files.list(limit=2, order="asc")] == ids
    page = tenant.http.get("/v1/files", params={"limit": 2, "after": ids[3]}).json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[2], ids[1], True)
    assert list(tenant.client.files.list(purpose="batch")) == []


def test_deleting_hides_and_is_final(tenant: Tenant) -> None:
    file_id = tenant.upload()
    deleted = tenant.client.files.delete(file_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    for call in (tenant.client.files.retrieve, tenant.client.files.content, tenant.client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file_id)
        assert caught.value.code == "not_found"
    assert list(tenant.client.files.list()) == []


def test_a_file_in_use_stays(tenant: Tenant) -> None:
    job = tenant.job()
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.files.delete(job.training_file)
    assert caught.value.code == "file_in_use"
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert tenant.client.files.delete(job.training_file).deleted


def test_what_is_refused_leaves_no_row(tenant: Tenant) -> None:
    before = tenant.num_rows(File)
    create = tenant.client.files.create
    with pytest.raises(openai.BadRequestError) as caught:
        create(file=("a", jsonl()), purpose="assistants")
    assert (caught.value.param, caught.value.code) == ("purpose", "invalid_value")
    with pytest.raises(openai.BadRequestError) as caught:
        create(file=("a", jsonl()), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    assert caught.value.param == "expires_after"
    for size in (2**20 + 1, 2**22):  # within and beyond what multipart adds
        with pytest.raises(openai.APIStatusError) as error:
            create(file=("a", b"x" * size), purpose="fine-tune")
        assert error.value.status_code == 413
        assert error.value.code == "request_too_large"
    assert tenant.http.post("/v1/files", data={"purpose": "fine-tune"}).json()["error"]["param"] == "file"
    assert tenant.http.post("/v1/files", files={"file": b"x"}).json()["error"]["code"] == "missing_required_parameter"
    assert tenant.num_rows(File) == before


def test_a_body_without_a_length_is_limited_too(tenant: Tenant) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

    def body() -> object:
        yield head
        for _ in range(3 * 2**4):
            yield b"x" * 2**16

    response = tenant.http.post("/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_strangers_are_asked_for_their_key_before_their_bytes_are_read(tenant: Tenant) -> None:
    response = httpx.post(f"{tenant.api.url}/v1/files", content=b"not even multipart", headers={"content-type": "multipart/form-data"})
    assert response.status_code == 401
