import csv
import io
from typing import Any

import pytest

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Attempt
from tests.support.api import Tenant

pytestmark = pytest.mark.both_databases


def record(
    tenant: Tenant, claim: claims.Claim, start_step: int, metrics: list[dict[str, Any]]
) -> None:
    drafts = [
        NewEvent(f"Step {point['step']}", type="metrics", data=point | {"total_steps": 5000})
        for point in metrics
    ]
    with tenant.api.database.transaction() as session:
        session.get_one(Attempt, (claim.job_id, claim.attempt)).start_step = start_step
        assert claims.append_events(session, claim, drafts)


def losses(steps: range, offset: float = 0) -> list[dict[str, Any]]:
    return [{"step": step, "train_loss": step + offset, "learning_rate": 1e-3} for step in steps]


def get(tenant: Tenant, job_id: str, **query: Any) -> dict[str, Any]:
    answer: Any = tenant.client.get(
        f"/fine_tuning/jobs/{job_id}/metrics", cast_to=object, options={"params": query}
    )
    assert (answer["object"], answer["fine_tuning_job_id"]) == ("fine_tuning.job.metrics", job_id)
    series: dict[str, Any] = answer["series"]
    return series


def test_every_value_is_returned_while_the_points_suffice(tenant: Tenant) -> None:
    job = tenant.job()
    assert get(tenant, job.id) == {}
    assert get(tenant, job.id, keys="train_loss") == {"train_loss": {"steps": [], "values": []}}
    evaluated = [{"step": 9, "valid_loss": 0.5}]
    record(tenant, tenant.claim(job.id), 0, losses(range(1, 10)) + evaluated)
    assert get(tenant, job.id) == {
        "train_loss": {
            "steps": list(range(1, 10)),
            "values": [float(step) for step in range(1, 10)],
        },
        "learning_rate": {"steps": list(range(1, 10)), "values": [1e-3] * 9},
        "valid_loss": {"steps": [9], "values": [0.5]},
    }


def test_a_long_series_keeps_its_extremes(tenant: Tenant) -> None:
    job = tenant.job()
    values = losses(range(1, 5001))
    values[1233]["train_loss"] = -7.0
    values[4321]["train_loss"] = 99_999.0
    record(tenant, tenant.claim(job.id), 0, values)
    thin = get(tenant, job.id, keys="train_loss", points=100)["train_loss"]
    assert len(thin["steps"]) == len(thin["values"]) <= 100
    assert thin["steps"] == sorted(thin["steps"])
    values_by_step = dict(zip(thin["steps"], thin["values"], strict=True))
    assert (values_by_step[1234], values_by_step[4322]) == (-7.0, 99_999.0)
    assert (thin["steps"][0], thin["steps"][-1]) == (1, 5000)
    assert {step // 110 for step in values_by_step} >= set(range(45))
    assert len(get(tenant, job.id, keys="train_loss", points=2)["train_loss"]["steps"]) == 2
    assert len(get(tenant, job.id, keys="train_loss", points=2000)["train_loss"]["steps"]) <= 2000


def test_as_csv(tenant: Tenant) -> None:
    job = tenant.job()
    record(tenant, tenant.claim(job.id), 0, [*losses(range(1, 4)), {"step": 3, "valid_loss": 0.5}])
    url = f"/v1/fine_tuning/jobs/{job.id}/metrics"
    responses = [tenant.http.get(url, params={"keys": "train_loss,valid_loss", "format": "csv"})]
    responses.append(
        tenant.http.get(
            url, params={"keys": "train_loss,valid_loss"}, headers={"accept": "text/csv"}
        )
    )
    for response in responses:
        assert response.headers["content-type"].startswith("text/csv")
        assert response.headers["x-request-id"]
        rows = list(csv.reader(io.StringIO(response.text)))
        assert rows == [
            ["step", "train_loss", "valid_loss"],
            ["1", "1", ""],
            ["2", "2", ""],
            ["3", "3", "0.5"],
        ]


def test_metrics_refuse_bad_queries_by_parameter(tenant: Tenant) -> None:
    job = tenant.job()
    url = f"/v1/fine_tuning/jobs/{job.id}/metrics"
    for query, param in (
        ("keys=odd", "keys"),
        ("keys=", "keys"),
        ("points=1", "points"),
        ("points=2001", "points"),
        ("format=xml", "format"),
    ):
        error = tenant.http.get(f"{url}?{query}").json()["error"]
        assert (error["code"], error["param"]) == ("invalid_value", param), query
