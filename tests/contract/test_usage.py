"""Cost, device seconds and tokens by UTC day, in OpenAI's buckets."""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import delete, insert, select, update

from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import DEFAULT_PROJECT_ID, Installation, JobStatus, Scope, UsageDay
from app.usage import sums
from app.usage.amounts import Span
from app.usage.repository import dearest
from tests.support.api import Api, Tenant
from tests.support.usage import accrued_by, report
from tests.support.waiting import wait_for

pytestmark = pytest.mark.both_databases

DAY = date(2026, 11, 2)
NEXT = DAY + timedelta(days=1)
START = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp())
SECONDS = 86_400
DAYS = {"start_time": START, "end_time": START + 3 * SECONDS}
NO_QUESTIONS = {"num_model_requests": 0, "input_tokens": 0, "output_tokens": 0}
WITHOUT = {"project_id": None, "api_key_id": None, "model": None}


def release(tenant: Tenant, claim: Claim) -> None:
    with tenant.api.database.transaction() as session:
        assert claims.release(
            session, claim, NewEvent("back"), counts_as_failure=False, max_infra_failures=3
        )


def tell(
    tenant: Tenant, claim: Claim, day: date, accrued: str, seconds: float, tokens: int
) -> None:
    with tenant.api.database.transaction() as session:
        report(session, claim, day, accrued, seconds, tokens)


@pytest.fixture
def jobs(tenant: Tenant) -> Iterator[list[Any]]:
    """One over midnight in two attempts, of which the second runs; one of a colleague that has
    ended.
    """
    long = tenant.job()
    first = tenant.claim(long.id)
    tell(tenant, first, DAY, "1.0001", 100.0, 1000)
    tell(tenant, first, NEXT, "2.5003", 250.0, 2500)
    release(tenant, first)
    second = tenant.claim(long.id)
    tell(tenant, second, NEXT, "3.1234", 312.0, 600)
    colleague = Tenant(tenant.api, Scope.WRITE, tenant.project_id)
    short = colleague.job()
    claim = colleague.claim(short.id)
    tell(colleague, claim, NEXT, "0.0300", 3.0, 30)
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.FAILED, NewEvent("done"))
    yield [long, short]
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, second, JobStatus.FAILED, NewEvent("done"))
    colleague.http.close()


def results_of(tenant: Tenant, **params: Any) -> list[list[dict[str, Any]]]:
    answer = tenant.http.get("/v1/usage", params=DAYS | params)
    assert answer.status_code == 200, answer.text
    return [bucket["results"] for bucket in answer.json()["data"]]


def total(buckets: list[list[dict[str, Any]]]) -> Decimal:
    return sum((Decimal(row["amount"]["value"]) for rows in buckets for row in rows), Decimal(0))


def test_days_add_up_to_what_the_jobs_say(tenant: Tenant, jobs: list[Any]) -> None:
    page = tenant.http.get("/v1/usage", params=DAYS).json()
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert [(bucket["start_time"], bucket["end_time"]) for bucket in page["data"]] == [
        (START + number * SECONDS, START + (number + 1) * SECONDS) for number in range(3)
    ]
    first, second, third = (bucket["results"] for bucket in page["data"])
    usage = {"object": "usage.fine_tuning.result"} | WITHOUT
    assert first == [
        usage
        | {
            "amount": {"value": "1.0001", "currency": "usd"},
            "device_seconds": 100.0,
            "trained_tokens": 1000,
            "num_jobs": 1,
        }
        | NO_QUESTIONS
    ]
    assert second == [
        usage
        | {
            "amount": {"value": "2.1533", "currency": "usd"},
            "device_seconds": 215.0,
            "trained_tokens": 2130,
            "num_jobs": 2,
        }
        | NO_QUESTIONS
    ]
    assert third == []
    with tenant.api.database.read() as session:
        assert total([first, second]) == accrued_by(session, *(job.id for job in jobs))


def test_groups_add_up_to_the_same(tenant: Tenant, jobs: list[Any]) -> None:
    long, short = jobs
    whole = total(results_of(tenant))
    for fields in (["project_id"], ["api_key_id"], ["model"], ["model", "api_key_id"]):
        buckets = results_of(tenant, group_by=fields)
        assert total(buckets) == whole
        for row in (row for rows in buckets for row in rows):
            assert {name for name in WITHOUT if row[name] is not None} == set(fields)
    assert {
        row["model"]: row["amount"]["value"] for row in results_of(tenant, group_by="model")[1]
    } == {long.model: "2.1233", short.model: "0.0300"}
    keys = {row["api_key_id"] for row in results_of(tenant, group_by="api_key_id")[1]}
    assert keys == {long.api_key_id, short.api_key_id}
    assert len(keys) == 2


def test_a_deleted_job_has_cost_what_it_cost(tenant: Tenant, jobs: list[Any]) -> None:
    before = results_of(tenant)
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{jobs[1].id}").status_code == 200
    assert results_of(tenant) == before


@pytest.mark.usefixtures("jobs")
def test_a_key_sees_its_project_and_the_installations_admin_all(
    api: Api, tenant: Tenant, stranger: Tenant
) -> None:
    assert results_of(stranger) == [[], [], []]
    by_project = {"group_by": "project_id", "limit": 2}
    for scope, sees in ((Scope.ADMIN, True), (Scope.WRITE, False)):
        colleague = Tenant(api, scope, DEFAULT_PROJECT_ID)
        rows = [row for rows in results_of(colleague, **by_project) for row in rows]
        assert (tenant.project_id in {row["project_id"] for row in rows}) == sees
        colleague.http.close()


def test_pages_follow_each_other_and_say_where_they_end(tenant: Tenant, jobs: list[Any]) -> None:
    params: dict[str, Any] = DAYS | {"limit": 1}
    buckets = []
    while True:
        page = tenant.http.get("/v1/usage", params=params).json()
        buckets += page["data"]
        if not page["has_more"]:
            break
        params["page"] = page["next_page"]
    assert buckets == tenant.http.get("/v1/usage", params=DAYS).json()["data"]
    table = tenant.http.get("/v1/usage", params=DAYS | {"limit": 1, "format": "csv"})
    assert table.headers["x-next-page"] == f"page_{START + SECONDS}"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"start_time": START, "end_time": START}, "end_time"),
        ({"start_time": START, "limit": 181}, "limit"),
        ({"start_time": START, "bucket_width": "1h"}, "bucket_width"),
        ({"start_time": START, "group_by": "user_id"}, "group_by"),
        (DAYS | {"page": "page_1"}, "page"),
        (DAYS | {"page": f"page_{START + 3 * SECONDS}"}, "page"),
        (DAYS | {"page": "page_99999999999"}, "page"),
        ({}, "start_time"),
    ],
)
def test_a_bad_usage_query_is_refused(tenant: Tenant, params: dict[str, Any], param: str) -> None:
    for path in ("/v1/usage", "/v1/organization/costs", "/v1/organization/usage/completions"):
        answer = tenant.http.get(path, params=params)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param


def test_a_table_for_spreadsheets_holds_no_formula(tenant: Tenant) -> None:
    tenant.base_model = "=HYPERLINK(1)" + tenant.base_model
    tenant.add_model(tenant.base_model, project_id=None)
    job = tenant.job()
    claim = tenant.claim(job.id)
    tell(tenant, claim, DAY, "0.5000", 5.0, 50)
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.FAILED, NewEvent("done"))
    answer = tenant.http.get(
        "/v1/usage", params=DAYS | {"group_by": "model"}, headers={"accept": "text/csv"}
    )
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row == {
        "day": "2026-11-02",
        "model": f"'{tenant.base_model}",
        "cost_usd": "0.5000",
        "device_seconds": "5.0",
        "trained_tokens": "50",
        "num_jobs": "1",
    } | dict.fromkeys(NO_QUESTIONS, "0")


@pytest.mark.usefixtures("jobs")
def test_days_that_are_over_are_summed_and_say_the_same(tenant: Tenant) -> None:
    fields = {"group_by": ["project_id", "api_key_id", "model"]}
    before, span = results_of(tenant, **fields), Span(DAY, NEXT + timedelta(days=1))
    with tenant.api.database.transaction() as session:
        session.execute(update(Installation).values(usage_summed_until=DAY))

    def are_summed() -> bool:
        sums.sum_days(tenant.api.database)  # beside the reconciler, which may be faster
        with tenant.api.database.read() as session:
            until = session.scalars(select(Installation)).one().usage_summed_until
        return until is not None and until > NEXT

    wait_for(are_summed)
    mine = (UsageDay.project_id == tenant.project_id,)
    with tenant.api.database.transaction() as session:
        rows = [
            dict(row) for row in session.execute(select(UsageDay.__table__).where(*mine)).mappings()
        ]
        session.execute(delete(UsageDay).where(*mine))
    try:
        assert results_of(tenant, **fields) == before, "without a row of a job"
        with tenant.api.database.read() as session:
            (usage,) = dearest(session, tenant.project_id, span, ["project_id"], limit=9)[
                "project_id"
            ]
        assert usage.num_jobs == 2, "one of them on two days"
    finally:
        with tenant.api.database.transaction() as session:
            session.execute(insert(UsageDay), rows)


def test_a_table_has_no_longest(tenant: Tenant) -> None:
    """10,500 lines of a day, where JSON is refused."""
    with tenant.api.database.transaction() as session:
        rows = [
            {
                "job_id": f"{tenant.project_id}-{number}",
                "day": DAY,
                "project_id": tenant.project_id,
                "key_id": f"key_{number}",
                "base_model_id": "m",
                "cost": Decimal("0.0001"),
                "device_seconds": 1.0,
                "tokens": 1,
            }
            for number in range(10_500)
        ]
        session.execute(insert(UsageDay), rows)
        session.execute(update(Installation).values(usage_summed_until=DAY))
    by_key = DAYS | {"group_by": "api_key_id"}
    refused = tenant.http.get("/v1/usage", params=by_key)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "group_by")
    table = tenant.http.get("/v1/usage", params=by_key | {"format": "csv"}).text
    lines = list(csv.DictReader(io.StringIO(table)))
    assert len(lines) == 10_500
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal("1.05")


@pytest.mark.usefixtures("jobs")
def test_the_official_client_reads_costs(tenant: Tenant) -> None:
    client = OpenAI(
        base_url=tenant.client.base_url, api_key="", admin_api_key=tenant.key, max_retries=0
    )
    page = client.admin.organization.usage.costs(
        start_time=START, end_time=DAYS["end_time"], group_by=["line_item", "project_id"]
    )
    results = [result for bucket in page.data for result in bucket.results]
    assert {(result.object, result.project_id) for result in results} == {  # type: ignore[union-attr]
        ("organization.costs.result", tenant.project_id)
    }
    values = [result.amount.value for result in results]  # type: ignore[union-attr]
    assert values == [1.0001, 2.1233, 0.03]
