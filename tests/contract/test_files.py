import io

import openai
import pytest

from app.base.ids import new_id
from app.models import File, Orphan
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
    assert (file.object, file.bytes, file.filename, file.purpose) == (
        "file",
        len(content),
        "rows.jsonl",
        "fine-tune",
    )
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


def test_a_file_is_checked_again_under_newer_rules(tenant: Tenant) -> None:
    file_id = tenant.upload()
    queued = tenant.job(training_file=file_id)
    with tenant.api.database.transaction() as session:  # as an older release judged it
        file = session.get_one(File, file_id)
        file.status, file.status_details, file.report = "error", "line 1: old rules", None
    assert tenant.client.files.retrieve(file_id).status_details == "line 1: old rules"

    path = f"/v1/files/{file_id}/check"
    checking = tenant.http.post(path).json()
    assert (checking["id"], checking["status"], checking["report"]) == (file_id, "uploaded", None)
    again = tenant.http.post(path)
    assert (again.status_code, again.json()["error"]["code"]) == (400, "check_in_progress")
    waiting = tenant.job(training_file=file_id)
    assert waiting.status == "validating_files"
    tenant.claim(queued.id)
    assert tenant.client.fine_tuning.jobs.retrieve(queued.id).status == "running"

    assert tenant.check(file_id) == [waiting.id]
    file = tenant.client.files.retrieve(file_id)
    assert (file.status, file.report["num_records"]) == ("processed", 12)
    assert tenant.client.fine_tuning.jobs.retrieve(queued.id).status == "running"
    assert tenant.http.post(path).json()["status"] == "uploaded"

    kept = tenant.client.files.create(file=("a.jsonl", jsonl()), purpose="batch")
    refused = tenant.http.post(f"/v1/files/{kept.id}/check").json()["error"]
    assert (refused["code"], refused["param"]) == ("not_checked", "id")


def test_names_are_display_text_only(tenant: Tenant) -> None:
    file = tenant.client.files.create(
        file=("r\u00fcckblick \U0001f4c8.jsonl", jsonl()), purpose="fine-tune"
    )
    assert file.filename == "r\u00fcckblick \U0001f4c8.jsonl"
    quoted = tenant.client.files.create(file=('q"uo;te', jsonl()), purpose="fine-tune")
    assert quoted.filename == 'q"uo;te'
    assert tenant.client.files.content(file.id).read() == jsonl()
    assert (
        tenant.client.files.create(file=io.BytesIO(jsonl()), purpose="fine-tune").filename
        == "upload"
    )


def test_pages_end_and_follow_the_order(tenant: Tenant) -> None:
    ids = [tenant.upload(check=False) for _ in range(5)]
    assert [file.id for file in tenant.client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in tenant.client.files.list(limit=2, order="asc")] == ids
    page = tenant.http.get("/v1/files", params={"limit": 2, "after": ids[3]}).json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == (
        "list",
        ids[2],
        ids[1],
        True,
    )
    assert list(tenant.client.files.list(purpose="batch")) == []
    assert tenant.http.get("/v1/files", params={"purpose": "batch"}).json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    for limit in (-1, 0, 10_001, "many"):
        error = tenant.http.get("/v1/files", params={"limit": limit})
        assert (
            error.status_code,
            error.json()["error"]["param"],
            error.json()["error"]["code"],
        ) == (400, "limit", "invalid_value")
    for after in ("nobody", "file-nobody", ids[0] + "0", ""):
        error = tenant.http.get("/v1/files", params={"after": after})
        assert (
            error.status_code,
            error.json()["error"]["param"],
            error.json()["error"]["code"],
        ) == (400, "after", "invalid_cursor")


@pytest.mark.both_databases
def test_a_list_counts_the_errors_that_each_file_lists(tenant: Tenant) -> None:
    sound, faulty = tenant.upload(), tenant.upload(jsonl(2) + b"{oops}\n" * 60)
    unchecked = tenant.client.files.create(file=("a.jsonl", jsonl()), purpose="fine-tune").id
    for order in ("asc", "desc"):
        listed = {file.id: file.report for file in tenant.client.files.list(order=order)}
        for file_id, num_errors, num_listed in ((sound, 0, 0), (faulty, 60, 50)):
            report = tenant.client.files.retrieve(file_id).report
            assert (report["num_errors"], len(report["errors"])) == (num_errors, num_listed)
            assert listed[file_id] == report | {"errors": []}
            alone = tenant.http.get(f"/v1/files/{file_id}/report").json()
            assert alone["report"] == report
        assert listed[unchecked] is None


def test_a_client_that_deletes_listed_files_reaches_the_end(tenant: Tenant) -> None:
    ids = [tenant.upload(check=False) for _ in range(3)]
    assert [
        tenant.client.files.delete(file.id).id for file in tenant.client.files.list(limit=1)
    ] == ids[::-1]
    assert list(tenant.client.files.list()) == []


@pytest.mark.parametrize("purpose", ["assistants", "batch", "vision", "user_data", "evals"])
def test_files_for_other_purposes_are_kept_but_neither_checked_nor_trained_on(
    tenant: Tenant, purpose: str
) -> None:
    file = tenant.client.files.create(file=("picture.png", b"\x89PNG"), purpose=purpose)
    assert (file.status, file.purpose) == ("processed", purpose)
    assert file.status_details is None
    assert tenant.client.files.content(file.id).read() == b"\x89PNG"
    assert [listed.id for listed in tenant.client.files.list(purpose=purpose)] == [file.id]
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.fine_tuning.jobs.create(model=tenant.base_model, training_file=file.id)
    assert (caught.value.param, caught.value.code) == ("training_file", "invalid_training_file")
    tenant.check(file.id)
    assert tenant.client.files.retrieve(file.id) == file


def test_a_file_may_be_given_an_end(tenant: Tenant) -> None:
    create = tenant.client.files.create
    assert create(file=("a", jsonl()), purpose="fine-tune").expires_at is None
    for seconds in (3600, 2592000):
        file = create(
            file=("a", jsonl()),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": seconds},
        )
        assert file.expires_at == file.created_at + seconds
        assert tenant.client.files.retrieve(file.id) == file


def test_a_file_in_use_stays(tenant: Tenant) -> None:
    job = tenant.job()
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.files.delete(job.training_file)
    assert caught.value.code == "file_in_use"
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert tenant.client.files.delete(job.training_file).deleted


REFUSED = {
    "an unknown purpose": ({"purpose": "mischief"}, {}, "purpose", "invalid_value"),
    "a purpose of ours": ({"purpose": "fine-tune-results"}, {}, "purpose", "invalid_value"),
    "no purpose": ({"purpose": None}, {}, "purpose", "missing_required_parameter"),
    "no file": ({}, {"file": None}, "file", "missing_required_parameter"),
    "text for a file": ({"file": "text"}, {"file": None}, "file", "invalid_value"),
    "an unknown field": ({"colour": "red"}, {}, "colour", "unknown_parameter"),
    "a lifetime without its anchor": (
        {"expires_after[seconds]": "3600"},
        {},
        "expires_after",
        "invalid_value",
    ),
    "an anchor without its lifetime": (
        {"expires_after[anchor]": "created_at"},
        {},
        "expires_after",
        "invalid_value",
    ),
    "another anchor": (
        {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        {},
        "expires_after[anchor]",
        "invalid_value",
    ),
    **{
        f"a lifetime of {seconds}": (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds},
            {},
            "expires_after[seconds]",
            "invalid_value",
        )
        for seconds in ("3599", "2592001", "-3600", "soon", "3600.5", "9" * 5000)
    },
    "a path": ({}, {"file": ("../../etc/passwd", b"x")}, "file", "invalid_filename"),
    "a path of Windows": ({}, {"file": ("folder\\x.jsonl", b"x")}, "file", "invalid_filename"),
    "a name that is a folder": ({}, {"file": ("..", b"x")}, "file", "invalid_filename"),
    "a long name": ({}, {"file": ("n" * 256, b"x")}, "file", "invalid_filename"),
    "a large file": ({}, {"file": ("a", b"x" * (2**20 + 1))}, "file", "request_too_large"),
    "a large body": ({}, {"file": ("a", b"x" * 2**22)}, "file", "request_too_large"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_file_says_why_and_leaves_nothing(tenant: Tenant, kind: str) -> None:
    fields, files, param, code = REFUSED[kind]
    sent = {"purpose": "fine-tune"} | fields
    parts = {"file": ("a", jsonl())} | files
    before = tenant.num_rows(File, Orphan)
    answer = tenant.http.post(
        "/v1/files",
        data={name: value for name, value in sent.items() if value is not None},
        files={name: value for name, value in parts.items() if value is not None} or {"": ""},
    )
    error = answer.json()["error"]
    assert (answer.status_code // 100, error["param"], error["code"]) == (4, param, code), error
    assert error["type"] == "invalid_request_error"
    assert (tenant.num_rows(File, Orphan), tenant.stored()) == (before, [])


def test_a_list_of_files_has_a_thousand_and_the_client_reads_on(tenant: Tenant) -> None:
    with tenant.api.database.transaction() as session:
        session.add_all(
            File(
                id=new_id("file-"),
                project_id=tenant.project_id,
                filename="a.jsonl",
                purpose="fine-tune",
                bytes=1,
                sha256="0" * 64,
                storage_key=new_id("files/"),
                status="processed",
            )
            for _ in range(1_001)
        )
    page = tenant.http.get("/v1/files").json()
    assert (len(page["data"]), page["has_more"]) == (1_000, True)
    assert len({file.id for file in tenant.client.files.list()}) == 1_001
    assert len(tenant.http.get("/v1/files?limit=10000").json()["data"]) == 1_001
