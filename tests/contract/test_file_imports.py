"""Tables that are uploaded become the checked JSON lines of their file."""

import gzip
import io
import json
import threading
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select, update

from app.models import File, FileImport, Orphan
from falqon_core.tables.__main__ import FIRST_RECORDS
from tests.support.api import Tenant
from worker.context import WorkerContext
from worker.operations.file_check import FileCheckHandler
from worker.operations.file_import import FileImportHandler
from worker.operations.handler import MAX_ATTEMPTS

MAPPING = json.dumps({"prompt": "question", "completion": "answer"})


def context_of(tenant: Tenant) -> WorkerContext:
    api = tenant.api
    return WorkerContext(api.settings, api.database, api.storage, "w", threading.Event())


def work(tenant: Tenant) -> None:
    """Do what a worker does with everything that waits."""
    context = context_of(tenant)
    FileImportHandler(context).poll()
    FileCheckHandler(context).poll()


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def upload(tenant: Tenant, name: str, content: bytes, **fields: str) -> Any:
    data = {"purpose": "fine-tune"} | fields
    answer = tenant.http.post("/v1/files", files={"file": (name, content)}, data=data)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_parquet_becomes_checked_json_lines(tenant: Tenant) -> None:
    content = parquet(question=["a", "b"], answer=["c", "d"], score=[1, 2])
    file = upload(tenant, "rows.parquet", content, mapping=MAPPING)
    before = tenant.stored()
    assert file["status"] == "uploaded"
    assert (file["source"]["source"], file["source"]["format"]) == ("rows.parquet", "parquet")
    assert tenant.client.files.content(file["id"]).read() == content
    work(tenant)
    file = tenant.http.get(f"/v1/files/{file['id']}").json()
    lines = b'{"prompt":"a","completion":"c"}\n{"prompt":"b","completion":"d"}\n'
    assert (file["status"], file["filename"], file["bytes"]) == (
        "processed",
        "rows.jsonl",
        len(lines),
    )
    assert tenant.client.files.content(file["id"]).read() == lines
    source = file["source"]
    assert (source["status"], source["progress"], source["num_records"]) == ("completed", 1.0, 2)
    assert source["ignored_columns"] == ["score"]
    assert source["first_records"] == lines.decode().splitlines()
    request = {
        "model": tenant.base_model,
        "training_file": file["id"],
        "falqon": {"validation_fraction": 0},
    }
    estimate = tenant.http.post("/v1/fine_tuning/estimates", json=request).json()
    assert estimate["warnings"] == ["rows.jsonl: fields that train nothing: the column 'score'."]
    with tenant.api.database.read() as session:
        orphans = session.scalars(select(Orphan.storage_key)).all()
    assert [f"projects/{tenant.project_id}/{key}" for key in before] == [
        key for key in orphans if tenant.project_id in key
    ]
    assert tenant.http.get("/v1/files").json()["data"][0] == file


def test_records_are_counted_once_however_often_they_are_reported(tenant: Tenant) -> None:
    rows = ["a"] * FIRST_RECORDS
    content = parquet(question=rows, answer=rows)
    file = upload(tenant, "rows.parquet", content, mapping=MAPPING)
    work(tenant)
    source = tenant.http.get(f"/v1/files/{file['id']}").json()["source"]
    assert source["num_records"] == FIRST_RECORDS


def test_a_table_in_parts_becomes_json_lines(tenant: Tenant) -> None:
    content = b'[{"text": "a"},\n {"text": "b"}]'
    upload = tenant.client.uploads.create(
        filename="rows.json", bytes=len(content), mime_type="application/json", purpose="fine-tune"
    )
    part = tenant.client.uploads.parts.create(upload.id, data=content)
    done = tenant.client.uploads.complete(upload.id, part_ids=[part.id])
    assert done.file is not None
    work(tenant)
    assert tenant.client.files.content(done.file.id).read() == b'{"text": "a"}\n{"text": "b"}\n'


LINES = b'{"text": "a"}\n{"text": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("rows.jsonl.gz", gzip.compress(LINES, mtime=0), "rows.jsonl"),
        (
            "rows",
            gzip.compress(b'{"data": [{"text": "a"}, {"text": "b"}], "n": 2}', mtime=0),
            "rows.jsonl",
        ),
        ("rows.jsonl", b'[{"text": "a"},\n {"text": "b"}]', "rows.jsonl"),
    ],
)
def test_gzip_and_lists_become_json_lines_whatever_their_name(
    tenant: Tenant, name: str, content: bytes, lines: str
) -> None:
    file = upload(tenant, name, content)
    work(tenant)
    file = tenant.http.get(f"/v1/files/{file['id']}").json()
    assert (file["status"], file["filename"]) == ("processed", lines)
    read = tenant.client.files.content(file["id"]).read().splitlines()
    assert list(map(json.loads, read)) == [{"text": "a"}, {"text": "b"}]


def test_a_workbook_is_named_and_not_called_text_in_another_encoding(tenant: Tenant) -> None:
    file = upload(tenant, "sheet.xlsx", b"PK\x03\x04\x14\x00[Content_Types].xml\xe1\n\xe1")
    work(tenant)
    file = tenant.http.get(f"/v1/files/{file['id']}").json()
    assert file["status"] == "error"
    assert file["status_details"] == (
        "line 1, column 1: this is an Excel workbook or another Office file; save the sheet as CSV"
    )


def test_a_table_without_the_columns_of_a_record_fails_with_its_job(tenant: Tenant) -> None:
    file = upload(tenant, "rows.csv", b"question,answer\na,b\n")
    job = tenant.job(training_file=file["id"])
    work(tenant)
    file = tenant.http.get(f"/v1/files/{file['id']}").json()
    assert file["status"] == "error"
    assert "the columns 'question', 'answer'; say which is which" in file["status_details"]
    assert file["source"]["error"]["code"] == "unknown_columns"
    job = tenant.client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error.code) == ("failed", "invalid_training_file")


def test_a_file_that_is_deleted_meanwhile_stays_deleted(tenant: Tenant) -> None:
    file = upload(tenant, "rows.csv", b"text\na\n")
    tenant.client.files.delete(file["id"])
    work(tenant)
    with tenant.api.database.read() as session:
        assert (
            session.scalars(select(FileImport).where(FileImport.file_id == file["id"])).all() == []
        )


def test_a_table_that_kills_its_workers_is_given_up(tenant: Tenant) -> None:
    file = upload(tenant, "rows.csv", b"text\na\n")
    with tenant.api.database.transaction() as session:
        session.execute(
            update(FileImport).where(FileImport.file_id == file["id"]).values(attempt=MAX_ATTEMPTS)
        )
    work(tenant)
    file = tenant.http.get(f"/v1/files/{file['id']}").json()
    assert (file["status"], file["source"]["error"]["code"]) == ("error", "file_import_failed")


def test_the_lines_of_a_table_count_for_the_quota(tenant: Tenant) -> None:
    content = parquet(text=["a" * 1000] * 1000)
    tenant.limit(max_storage_bytes=2 * len(content))
    file = upload(tenant, "rows.parquet", content)
    work(tenant)
    file = tenant.http.get(f"/v1/files/{file['id']}").json()
    assert (file["status"], file["source"]["error"]["code"]) == ("error", "insufficient_quota")
    with tenant.api.database.read() as session:
        assert session.get_one(File, file["id"]).bytes == len(content)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mapping": "question"}, "mapping: write the column of each field"),
        ({"mapping": '{"prompt": 7}'}, "mapping: write the column of each field"),
        ({"mapping": MAPPING, "purpose": "batch"}, "only files of purpose 'fine-tune' hold"),
    ],
)
def test_a_wrong_mapping_is_refused(tenant: Tenant, fields: dict[str, str], message: str) -> None:
    data = {"purpose": "fine-tune"} | fields
    answer = tenant.http.post("/v1/files", files={"file": ("a.csv", b"a\n")}, data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mapping")
    assert message in answer.json()["error"]["message"]
