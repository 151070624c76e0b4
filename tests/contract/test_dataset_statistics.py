"""What a file is to a model, as its report says it."""

import json
import threading
from typing import Any

import pytest

from app.base.ids import new_id
from app.dataset_statistics.service import MAX_IN_PROGRESS
from app.models import DatasetStatistics, File
from falqon_core.importers.tiny import build_tiny
from tests.contract.reports import lines, report
from tests.falqon_core.data.families import QWEN3
from tests.support.api import Tenant
from worker.context import WorkerContext
from worker.operations.dataset_statistics import DatasetStatisticsHandler


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models") / "falqon-tiny"
    build_tiny(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def add_model(tenant: Tenant, files: dict[str, bytes]) -> str:
    model_id = new_id("base-")
    tenant.add_model(model_id, project_id=None)
    tenant.store_artifacts(model_id, files)
    return model_id


def inspected(tenant: Tenant, file_id: str, **query: Any) -> dict[str, Any]:
    inspections: list[dict[str, Any]] = report(tenant, file_id, **query)["inspections"]
    (inspection,) = inspections
    return inspection


def work(tenant: Tenant) -> None:
    api = tenant.api
    owner = new_id("worker-")
    DatasetStatisticsHandler(
        WorkerContext(api.settings, api.database, api.storage, owner, threading.Event())
    ).poll()


def test_statistics_describe_a_file_for_a_model(
    tenant: Tenant, tiny_files: dict[str, bytes]
) -> None:
    model = add_model(tenant, tiny_files)
    questions = [
        f"What is the price of lamp number {n} in the shop at the corner?" for n in range(12)
    ]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "Seven."}]}
        for q in questions
    ]
    file_id = tenant.upload(lines(*rows, rows[2]))
    validation_id = tenant.upload(lines(rows[5], rows[5]))
    query = {"model": model, "validation_file": validation_id}
    guess = tenant.client.fine_tuning.jobs.create(
        model=model, training_file=file_id, extra_query={"dry_run": "true"}
    ).estimate

    first = inspected(tenant, file_id, **query)
    assert first == query | {
        "max_seq_length": 2048,
        "chat_template_kwargs": None,
        "status": "in_progress",
        "error": None,
        "result": None,
    }
    assert inspected(tenant, file_id, **query) == first
    work(tenant)

    inspection = inspected(tenant, file_id, **query)
    result = inspection["result"]
    assert (
        inspection["status"],
        result["records"],
        result["truncated"],
        result["bad_records"],
    ) == ("completed", 13, 0, 0)
    assert sum(result["histogram"]["counts"]) == 13
    assert result["duplicates"]["exact"] == {
        "records": 1,
        "examples": [{"line": 13, "like_line": 3, "similarity": 1.0}],
    }
    assert [example["line"] for example in result["leakage"]["exact"]["examples"]] == [1, 2]
    preview = result["preview"][0]
    assert (preview["line"], "".join(text for text, learned in preview["tokens"] if learned)) == (
        1,
        "Seven.<|im_end|>",
    )
    assert len(preview["tokens"]) * 12 < result["tokens_per_epoch"] < 14 * result["longest"]

    assert [example["model"] for example in report(tenant, file_id)["inspections"]] == [model]
    job = tenant.client.fine_tuning.jobs.create(model=model, training_file=file_id)
    assert (
        job.estimate["tokens_per_epoch"] == result["tokens_per_epoch"] != guess["tokens_per_epoch"]
    )
    assert (job.estimate["tokens_basis"], guess["tokens_basis"]) == ("counted", "characters")


def test_a_turn_that_the_template_rewrites_is_shown_and_counted(
    tenant: Tenant, tiny_files: dict[str, bytes]
) -> None:
    model = add_model(tenant, tiny_files | {"chat_template.jinja": QWEN3.template.encode()})
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Seven."}] * 2
    file_id = tenant.upload(lines(*[{"messages": chat}] * 12))
    kwargs = {"enable_thinking": False}
    query = {"model": model, "chat_template_kwargs": json.dumps(kwargs)}
    arguments: Any = {
        "model": model,
        "training_file": file_id,
        "extra_body": {"falqon": {"chat_template_kwargs": kwargs}},
    }
    before = tenant.client.fine_tuning.jobs.create(**arguments).estimate
    inspected(tenant, file_id, **query)
    work(tenant)
    inspection = inspected(tenant, file_id, **query)

    result = inspection["result"]
    assert inspection["chat_template_kwargs"] == kwargs
    assert (result["records"], result["sequences"]) == (12, 24)
    preview = result["preview"][0]
    for tokens in (preview["tokens"], *preview["later_turns"]):
        text = "".join(text for text, _ in tokens)
        assert text.endswith("assistant\n<think>\n\n</think>\n\nSeven.<|im_end|>\n")
        assert "".join(text for text, learned in tokens if learned) == "Seven.<|im_end|>"
    assert len(preview["later_turns"]) == 1
    (warning,) = result["warnings"]
    assert (warning["code"], warning["records"]) == ("turns_rewritten", 12)
    assert "24 together" in warning["message"]
    assert report(tenant, file_id)["report"]["num_learned_turns"] == 24
    assert "times as many where the model's chat template rewrites" in before["explanation"]
    after = tenant.client.fine_tuning.jobs.create(**arguments).estimate
    assert (after["tokens_per_epoch"], after["steps"]) == (
        result["tokens_per_epoch"],
        before["steps"],
    )
    assert "rewrites" not in after["explanation"]


def test_a_file_that_is_still_checked_makes_the_question_wait(tenant: Tenant) -> None:
    file_id = tenant.upload(check=False)
    assert inspected(tenant, file_id, model=tenant.base_model)["status"] == "in_progress"
    assert report(tenant, file_id)["inspections"] == []
    assert report(tenant, file_id)["report"] is None
    tenant.check(file_id)
    assert (
        inspected(tenant, file_id, model=tenant.base_model, max_seq_length=128)["max_seq_length"]
        == 128
    )
    assert len(report(tenant, file_id)["inspections"]) == 1


def test_a_faulty_file_is_nothing_to_a_model(tenant: Tenant) -> None:
    inspection = inspected(tenant, tenant.upload(b"{oops\n"), model=tenant.base_model)
    assert (inspection["status"], inspection["error"]["code"]) == (
        "failed",
        "invalid_training_file",
    )
    assert "line 1, column 2" in inspection["error"]["message"]


def test_a_bad_statistics_request_is_refused_and_starts_nothing(
    tenant: Tenant, stranger: Tenant
) -> None:
    file_id = tenant.upload()
    foreign = stranger.upload()
    before = tenant.num_rows(DatasetStatistics)
    cases = [
        ("file-nobody", {}, 404, "not_found", "id"),
        (foreign, {}, 404, "not_found", "id"),
        (foreign, {"model": tenant.base_model}, 404, "not_found", "id"),
        (file_id, {"model": "nobody"}, 404, "model_not_found", "model"),
        (file_id, {"max_seq_length": 64}, 400, "missing_required_parameter", "model"),
        (file_id, {"validation_file": file_id}, 400, "missing_required_parameter", "model"),
        (
            file_id,
            {"model": tenant.base_model, "validation_file": file_id},
            400,
            "invalid_validation_file",
            "validation_file",
        ),
        (
            file_id,
            {"model": tenant.base_model, "validation_file": foreign},
            400,
            "invalid_validation_file",
            "validation_file",
        ),
        (file_id, {"model": tenant.base_model, "max_seq_length": 7}, 400, None, "max_seq_length"),
        (
            file_id,
            {"model": tenant.base_model, "max_seq_length": "many"},
            400,
            None,
            "max_seq_length",
        ),
        *(
            (
                file_id,
                {"model": tenant.base_model, "chat_template_kwargs": text},
                400,
                None,
                "chat_template_kwargs",
            )
            for text in ("thinking", "[]", '{"tools": true}', '{"a b": 1}', '{"a": null}')
        ),
    ]
    for id_, query, status, code, param in cases:
        response = tenant.http.get(f"/v1/files/{id_}/report", params=query)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, param), (query, error)
        assert code in (None, error["code"])
    assert tenant.num_rows(DatasetStatistics) == before


def test_a_file_of_another_purpose_has_no_report(tenant: Tenant) -> None:
    file_id = tenant.upload()
    with tenant.api.database.transaction() as session:
        session.get_one(File, file_id).purpose = "batch"
    response = tenant.http.get(f"/v1/files/{file_id}/report")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_report")


def test_questions_of_one_project_are_limited(tenant: Tenant) -> None:
    file_id = tenant.upload()
    for length in range(MAX_IN_PROGRESS):
        assert (
            inspected(tenant, file_id, model=tenant.base_model, max_seq_length=100 + length)[
                "status"
            ]
            == "in_progress"
        )
    response = tenant.http.get(
        f"/v1/files/{file_id}/report", params={"model": tenant.base_model, "max_seq_length": 99}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (429, "too_many_inspections")
    tenant.client.files.delete(file_id)
    other = tenant.upload()
    assert inspected(tenant, other, model=tenant.base_model)["status"] == "in_progress"
