import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import update

from app.base.ids import new_id
from app.models import Job, JobStatus
from tests.support.api import Api, Tenant
from tests.support.databases import choose_databases, create_database
from tests.support.fixtures import tenant as tenant
from tests.support.model_engine import model_engine, rows
from worker.context import WorkerContext
from worker.operations.evaluation import EvaluationHandler

NUM_ROWS = 24
WEBHOOKS = [
    f"fine_tuning.job.switch.{status}" for status in ("canary", "switched", "kept", "rolled_back")
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    choose_databases(metafunc, "api")


@pytest.fixture(scope="package")
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("switches")
    database_url = create_database(request, folder)
    with model_engine() as url:
        judge = {"judge_url": url, "judge_models": ["external-judge", "external-bad"]}
        api = Api(database_url, folder, engine_url=url, **judge)
        yield api
        api.stop()


@pytest.fixture
def handler(api: Api) -> EvaluationHandler:
    context = WorkerContext(api.settings, api.database, api.storage, "evaluates", threading.Event())
    return EvaluationHandler(context)


class Result(NamedTuple):
    """Model of a job that has succeeded."""

    model: str
    job_id: str


def make_result(tenant: Tenant, word: str = "good", num_rows: int = NUM_ROWS) -> Result:
    """Add a job that held rows out, and its model, whose name has the word."""
    job_id = tenant.job(validation_file=tenant.upload(rows(num_rows))).id
    model = f"ft:tiny:acme:{word}:{new_id('')[-8:]}"
    tenant.add_model(model, project_id=tenant.project_id, base=tenant.base_model, job_id=job_id)
    values = {"status": JobStatus.SUCCEEDED, "fine_tuned_model_id": model}
    with tenant.api.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))
    return Result(model, job_id)


def put(tenant: Tenant, name: str, *models: str) -> dict[str, Any]:
    body = {"name": name, "models": [{"model": model} for model in models]}
    alias: dict[str, Any] = tenant.http.post("/v1/aliases", json=body).raise_for_status().json()
    return alias


def ask(tenant: Tenant, name: str, **body: Any) -> str:
    answer = tenant.http.post(f"/v1/aliases/{name}/switches", json=body)
    return str(answer.raise_for_status().json()["id"])


def read(tenant: Tenant, name: str, switch_id: str) -> dict[str, Any]:
    url = f"/v1/aliases/{name}/switches/{switch_id}"
    switch: dict[str, Any] = tenant.http.get(url).raise_for_status().json()
    return switch


def models_of(tenant: Tenant, name: str) -> dict[str, int]:
    """Return the weights of what a name stands for."""
    models = tenant.http.get(f"/v1/aliases/{name}").raise_for_status().json()["models"]
    return {target["model"]: target["weight"] for target in models}


def events_of(tenant: Tenant, job_id: str) -> list[dict[str, Any]]:
    url = f"/v1/fine_tuning/jobs/{job_id}/events"
    events: list[dict[str, Any]] = tenant.http.get(url).raise_for_status().json()["data"]
    return events


def subscribe(tenant: Tenant) -> str:
    body = {"url": "https://hooks.example.com", "event_types": WEBHOOKS}
    return str(tenant.http.post("/v1/webhook_endpoints", json=body).json()["id"])


def deliveries_of(tenant: Tenant, endpoint_id: str) -> list[str]:
    """Return the types of the events that were to be sent, the oldest first."""
    url = f"/v1/webhook_endpoints/{endpoint_id}/deliveries"
    page = tenant.http.get(url).raise_for_status().json()["data"]
    return [delivery["event_type"].rpartition(".")[2] for delivery in page][::-1]
