"""Estimated cost of the evaluation that follows a job, where an engine is the operator's own."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.models import Evaluation, Job, Model, OperationStatus, PriceOverride
from tests.contract.access_objects import an_evaluation
from tests.support.api import TINY_CONFIG, Api, Tenant, jsonl

BASE = "acme/base"


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    """On a device of which a second costs a dollar."""
    api = Api(f"sqlite:///{tmp_path}/falqon.db", tmp_path)
    with api.database.transaction() as session:
        session.add(Model(id=BASE, config=TINY_CONFIG | {"model_type": "llama"}, bytes=1))
        session.add(PriceOverride(device="cpu", usd_per_device_hour="3600", source="ours"))
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def test_only_answers_of_workers_engines_have_a_cost(tenant: Tenant) -> None:
    body = {"model": BASE, "training_file": tenant.upload(jsonl(100)), "suffix": "mine"}

    def estimate(*own: str) -> tuple[float, Decimal]:
        tenant.api.settings.engine_urls.clear()
        tenant.api.settings.engine_urls.update(dict.fromkeys(own, "http://127.0.0.1:1"))
        answer = tenant.http.post("/v1/fine_tuning/estimates", json=body).raise_for_status()
        evaluation = answer.json()["evaluation"]
        return evaluation["seconds"], Decimal(evaluation["cost"])

    seconds, cost = estimate("acme/other")
    assert cost > 1
    assert estimate(BASE) == (seconds, cost / 2)
    assert estimate("ft:*:mine:*") == (seconds, cost / 2)
    assert estimate("*") == (seconds, 0)

    params = an_evaluation(tenant)
    measured: dict[str, Any] = {"num_answers": 8, "seconds": 4.0, "cost": Decimal("0.0800")}
    measured["status"] = OperationStatus.COMPLETED
    with tenant.api.database.transaction() as session:
        is_it = Evaluation.id == params["evaluation_id"]
        session.execute(update(Evaluation).where(is_it).values(**measured))
        is_job = Job.id == params["job_id"]
        session.execute(update(Job).where(is_job).values(base_model_id=BASE))
        base = session.get_one(Evaluation, params["evaluation_id"]).plan.models[0].model
    # Four of the eight answers took these seconds and had this cost.
    assert estimate(base, BASE) == (20.0, Decimal("0.2000"))
    assert estimate("*") == (seconds, 0)
