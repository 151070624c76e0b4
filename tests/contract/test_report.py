"""The report of a file: what its check found, and which jobs may use it."""

from typing import Any

import openai
import pytest

from tests.contract.reports import lines, report
from tests.support.api import Tenant, jsonl


def test_a_fault_is_told_with_its_place_and_what_to_do(tenant: Tenant) -> None:
    content = report(
        tenant, tenant.upload(jsonl(2) + b'{"messages": [{"role": "robot", "content": "hi"}]}\n')
    )

    assert (content["object"], content["status"]) == ("file.report", "error")
    (error,) = content["report"]["errors"]
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
    content = report(tenant, tenant.upload(b"\n".join(hostile)))

    assert [error["line"] for error in content["report"]["errors"]] == [1, 2, 3, 4, 5, 6, 7]
    assert content["status"] == "error"


def test_at_most_fifty_errors_are_listed(tenant: Tenant) -> None:
    content = report(tenant, tenant.upload(b"{\n" * 80))["report"]

    assert (content["num_errors"], len(content["errors"])) == (80, 50)


@pytest.mark.parametrize(
    ("record", "dialect", "shape"),
    [
        ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, "alpaca", "messages"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            },
            "sharegpt",
            "messages",
        ),
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
def test_the_records_of_other_tools_are_converted_and_trainable(
    tenant: Tenant, record: Any, dialect: str, shape: str
) -> None:
    file_id = tenant.upload(lines(*[record] * 10))
    content = report(tenant, file_id)

    assert content["status"] == "processed"
    conversion = content["report"]["conversion"]
    assert (conversion["dialect"], conversion["shape"], conversion["before"]) == (
        dialect,
        shape,
        record,
    )
    method = {"type": "dpo"} if shape == "preference" else {"type": "supervised"}
    assert tenant.job(training_file=file_id, method=method).status == "queued"


def test_a_file_with_some_bad_records_is_for_jobs_that_tolerate_them(tenant: Tenant) -> None:
    file_id = tenant.upload(jsonl(38) + b"{oops\n" * 2)
    file = tenant.client.files.retrieve(file_id)
    assert (file.status, file.report["num_records"], file.report["num_errors"]) == (
        "processed",
        38,
        2,
    )
    assert file.status_details.startswith("38 records (messages); bad: line 39, column 2")

    for tolerated in (0.0, 0.04):
        with pytest.raises(openai.BadRequestError) as caught:
            tenant.job(
                training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": tolerated}}
            )
        assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")
        assert "2 of 40 records are bad (5.00%)" in str(caught.value)
        assert "line 39, column 2" in str(caught.value)

    job = tenant.job(
        training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": 0.05}}
    )
    assert (job.status, job.estimate["num_records"], job.config["max_bad_record_fraction"]) == (
        "queued",
        38,
        0.05,
    )
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(extra_body={"falqon": {"max_bad_record_fraction": 0.2}})
    assert caught.value.param == "falqon.max_bad_record_fraction"


def test_a_job_that_came_before_the_check_fails_by_its_tolerance(tenant: Tenant) -> None:
    file_id = tenant.upload(jsonl(19) + b"{oops\n", check=False)
    strict, tolerant = (
        tenant.job(
            training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": fraction}}
        )
        for fraction in (0.01, 0.05)
    )

    assert tenant.check(file_id) == [tolerant.id]
    failed = tenant.client.fine_tuning.jobs.retrieve(strict.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_training_file")
    assert "1 of 20 records are bad (5.00%)" in failed.error.message


@pytest.mark.parametrize(
    "content", [jsonl(8) + b"{oops\n", jsonl(100) + b'{"text": "another shape"}\n']
)
def test_too_many_bad_records_or_mixed_shapes_are_no_use_to_anybody(
    tenant: Tenant, content: bytes
) -> None:
    file_id = tenant.upload(content)

    assert tenant.client.files.retrieve(file_id).status == "error"
    with pytest.raises(openai.BadRequestError):
        tenant.job(training_file=file_id, extra_body={"falqon": {"max_bad_record_fraction": 0.1}})
