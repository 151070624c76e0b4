"""The report of a file: what its check found, and which jobs may use it."""

import json
import threading
from typing import Any

import openai
import pytest

from app.ids import new_id
from app.inspections.service import MAX_IN_PROGRESS
from app.models import Artifact, File, Inspection
from app.storage import keys
from falqon_core.importers.tiny import build_tiny
from tests.support.api import Tenant, jsonl
from worker.operations.dataset_stats import Inspector


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def report(tenant: Tenant, file_id: str, **query: Any) -> dict[str, Any]:
    response = tenant.http.get(f"/v1/files/{file_id}/report", params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_fault_is_told_with_its_place_and_what_to_do(tenant: Tenant) -> None:
    found = report(tenant, tenant.upload(jsonl(2) + b'{"messages": [{"role": "robot", "content": "hi"}]}\n'))

    assert (found["object"], found["status"]) == ("file.report", "error")
    (error,) = found["report"]["errors"]
    assert (error["line"], error["column"], error["field"]) == (3, 24, "messages[0].role")
    assert "'assistant'" in error["message"]
    assert error["advice"] == "use one of these"


def test_hostile_lines_are_errors_and_nothing_more(tenant: Tenant) -> None:
    hostile = [
        b"[" * 100_000,
        b'{"text": "a\\u0000b"}',
        b'{"text": "\\ud800"}',
        b'{"text": "a", "\\u0000\\ud800": "b"}',
        b'{"text": "a", "text": "b"}',
        b'{"text": NaN}',
        b"\0" * 1000,
    ]
    found = report(tenant, tenant.upload(b"\n".join(hostile)))

    assert [error["line"] for error in found["report"]["errors"]] == [1, 2, 3, 4, 5, 6, 7]
    assert found["status"] == "error"


def test_at_most_fifty_errors_are_listed(tenant: Tenant) -> None:
    found = report(tenant, tenant.upload(b"{\n" * 80))["report"]

    assert (found["num_errors"], len(found["errors"])) == (80, 50)


@pytest.mark.parametrize(
    ("record", "dialect", "shape"),
    [
        ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, "alpaca", "messages"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "sharegpt", "messages"),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Hello"},
                "rejected": {"from": "gpt", "value": "No"},
            },
            "sharegpt",
            "preference",
        ),
    ],
)
def test_the_records_of_other_tools_are_converted_and_trainable(tenant: Tenant, record: Any, dialect: str, shape: str) -> None:
    file_id = tenant.upload(lines(*[record] * 10))
    found = report(tenant, file_id)

    assert found["status"] == "processed"
    shown = found["report"]["conversion"]
    assert (shown["dialect"], shown["shape"], shown["before"]) == (dialect, shape, record)
    method = {"type": "dpo"} if shape == "preference" else {"type": "supervised"}
    assert tenant.job(training_file=file_id, method=method).status == "queued"


def test_a_file_with_some_bad_records_is_for_jobs_that_tolerate_them(tenant: Tenant) -> None:
    file_id = tenant.upload(jsonl(38) + b"{oops\n" * 2)
    file = tenant.client.files.retrieve(file_id)
    assert (file.status, file.report["num_records"], file.report["num_errors"]) == ("processed", 38, 2)
    assert file.status_details.startswith("38 records (messages); bad: line 39, column 2")

    for tolerated in (0.0, 0.04):
        with pytest.raises(openai.BadRequestError) as caught:
            tenant.job(training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": tolerated}})
        assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")
        assert "2 of 40 records are bad (5.00%)" in str(caught.value)
        assert "line 39, column 2" in str(caught.value)

    job = tenant.job(training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": 0.05}})
    assert (job.status, job.estimate["num_records"], job.config["max_bad_record_fraction"]) == ("queued", 38, 0.05)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(extra_body={"falqon": {"max_bad_record_fraction": 0.2}})
    assert caught.value.param == "falqon.max_bad_record_fraction"


def test_a_job_that_came_before_the_check_fails_by_its_tolerance(tenant: Tenant) -> None:
    file_id = tenant.upload(jsonl(19) + b"{oops\n", check=False)
    strict, tolerant = (
        tenant.job(training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": fraction}}) for fraction in (0.01, 0.05)
    )

    assert tenant.check(file_id) == [tolerant.id]
    failed = tenant.client.fine_tuning.jobs.retrieve(strict.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_training_file")
    assert "1 of 20 records are bad (5.00%)" in failed.error.message


@pytest.mark.parametrize("content", [jsonl(8) + b"{oops\n", jsonl(100) + b'{"text": "another shape"}\n'])
def test_too_many_bad_records_or_mixed_shapes_are_no_use_to_anybody(tenant: Tenant, content: bytes) -> None:
    file_id = tenant.upload(content)

    assert tenant.client.files.retrieve(file_id).status == "error"
    with pytest.raises(openai.BadRequestError):
        tenant.job(training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": 0.1}})


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models") / "falqon-tiny"
    build_tiny(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def add_model(tenant: Tenant, files: dict[str, bytes]) -> str:
    model_id = new_id("base-")
    tenant.add_model(model_id, project_id=None)
    with tenant.api.database.transaction() as session:
        for name, content in files.items():
            key = keys.base_model_file(model_id, name)
            stored = tenant.api.storage.put(key, [content])
            session.add(Artifact(model_id=model_id, name=name, bytes=stored.bytes, sha256=stored.sha256, storage_key=key))
    return model_id


def inspected(tenant: Tenant, file_id: str, **query: Any) -> dict[str, Any]:
    (found,) = report(tenant, file_id, **query)["inspections"]
    shown: dict[str, Any] = found
    return shown


def work(tenant: Tenant) -> None:
    Inspector(tenant.api.settings, tenant.api.database, tenant.api.storage, threading.Event()).poll()


def test_what_a_file_is_to_a_model(tenant: Tenant, tiny_files: dict[str, bytes]) -> None:
    model = add_model(tenant, tiny_files)
    questions = [f"What is the price of lamp number {n} in the shop at the corner?" for n in range(12)]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "Seven."}]} for q in questions]
    file_id, validation_id = tenant.upload(lines(*rows, rows[2])), tenant.upload(lines(rows[5], rows[5]))
    asked = {"model": model, "validation_file": validation_id}
    guess = tenant.client.fine_tuning.jobs.create(model=model, training_file=file_id, extra_query={"dry_run": "true"}).estimate

    first = inspected(tenant, file_id, **asked)
    assert first == asked | {"max_seq_length": 2048, "status": "in_progress", "error": None, "result": None}
    assert inspected(tenant, file_id, **asked) == first
    work(tenant)

    found = inspected(tenant, file_id, **asked)
    result = found["result"]
    assert (found["status"], result["records"], result["truncated"], result["bad_records"]) == ("completed", 13, 0, 0)
    assert sum(result["histogram"]["counts"]) == 13
    assert result["duplicates"]["exact"] == {"records": 1, "examples": [{"line": 13, "like_line": 3, "similarity": 1.0}]}
    assert [one["line"] for one in result["leakage"]["exact"]["examples"]] == [1, 2]
    preview = result["preview"][0]
    assert (preview["line"], "".join(text for text, learned in preview["tokens"] if learned)) == (1, "Seven.<|im_end|>")
    assert len(preview["tokens"]) * 12 < result["tokens_per_epoch"] < 14 * result["longest"]

    assert [one["model"] for one in report(tenant, file_id)["inspections"]] == [model]
    job = tenant.client.fine_tuning.jobs.create(model=model, training_file=file_id)
    assert job.estimate["tokens_per_epoch"] == result["tokens_per_epoch"] != guess["tokens_per_epoch"]
    assert (job.estimate["tokens_basis"], guess["tokens_basis"]) == ("counted", "characters")


def test_a_file_that_is_still_checked_makes_the_question_wait(tenant: Tenant) -> None:
    file_id = tenant.upload(check=False)
    assert inspected(tenant, file_id, model=tenant.base_model)["status"] == "in_progress"
    assert report(tenant, file_id)["inspections"] == []
    assert report(tenant, file_id)["report"] is None
    tenant.check(file_id)
    assert inspected(tenant, file_id, model=tenant.base_model, max_seq_length=128)["max_seq_length"] == 128
    assert len(report(tenant, file_id)["inspections"]) == 1


def test_a_faulty_file_is_nothing_to_a_model(tenant: Tenant) -> None:
    found = inspected(tenant, tenant.upload(b"{oops\n"), model=tenant.base_model)
    assert (found["status"], found["error"]["code"]) == ("failed", "invalid_training_file")
    assert "line 1, column 2" in found["error"]["message"]


def test_what_cannot_be_asked_is_refused_and_starts_nothing(tenant: Tenant, stranger: Tenant) -> None:
    file_id, foreign = tenant.upload(), stranger.upload()
    before = tenant.num_rows(Inspection)
    cases = [
        ("file-nobody", {}, 404, "not_found", "id"),
        (foreign, {}, 404, "not_found", "id"),
        (foreign, {"model": tenant.base_model}, 404, "not_found", "id"),
        (file_id, {"model": "nobody"}, 404, "model_not_found", "model"),
        (file_id, {"max_seq_length": 64}, 400, "missing_required_parameter", "model"),
        (file_id, {"validation_file": file_id}, 400, "missing_required_parameter", "model"),
        (file_id, {"model": tenant.base_model, "validation_file": file_id}, 400, "invalid_validation_file", "validation_file"),
        (file_id, {"model": tenant.base_model, "validation_file": foreign}, 400, "invalid_validation_file", "validation_file"),
        (file_id, {"model": tenant.base_model, "max_seq_length": 7}, 400, None, "max_seq_length"),
        (file_id, {"model": tenant.base_model, "max_seq_length": "many"}, 400, None, "max_seq_length"),
    ]
    for id_, query, status, code, param in cases:
        response = tenant.http.get(f"/v1/files/{id_}/report", params=query)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, param), (query, error)
        assert code in (None, error["code"])
    assert tenant.num_rows(Inspection) == before


def test_a_file_of_another_purpose_has_no_report(tenant: Tenant) -> None:
    file_id = tenant.upload()
    with tenant.api.database.transaction() as session:
        session.get_one(File, file_id).purpose = "batch"
    response = tenant.http.get(f"/v1/files/{file_id}/report")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_report")


def test_questions_of_one_project_are_limited(tenant: Tenant) -> None:
    file_id = tenant.upload()
    for length in range(MAX_IN_PROGRESS):
        assert inspected(tenant, file_id, model=tenant.base_model, max_seq_length=100 + length)["status"] == "in_progress"
    response = tenant.http.get(f"/v1/files/{file_id}/report", params={"model": tenant.base_model, "max_seq_length": 99})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "too_many_inspections")
    tenant.client.files.delete(file_id)
    other = tenant.upload()
    assert inspected(tenant, other, model=tenant.base_model)["status"] == "in_progress"
