from typing import Any

import pytest

from app.models import Job
from tests.support.api import Tenant

WANDB = {
    "type": "wandb",
    "wandb": {"project": "support", "name": "first", "entity": "acme", "tags": ["a", "b"]},
}
OTHERS = [
    {"type": "mlflow", "mlflow": {"experiment": "support"}},
    {"type": "tensorboard"},
    {"type": "trackio", "trackio": {"project": "support"}},
]


def test_integrations_come_back_as_they_were_asked_for(tenant: Tenant) -> None:
    job = tenant.job(integrations=[WANDB, *OTHERS])
    assert job.integrations[0].wandb.tags == ["a", "b"]
    listed = next(iter(tenant.client.fine_tuning.jobs.list()))
    for copy in (job, tenant.client.fine_tuning.jobs.retrieve(job.id), listed):
        assert [integration.to_dict() for integration in copy.integrations] == [WANDB, *OTHERS]


@pytest.mark.parametrize("nothing", [None, []])
def test_a_job_without_integrations_has_an_empty_list(tenant: Tenant, nothing: Any) -> None:
    assert tenant.job(integrations=nothing).integrations == []


FAULTS: dict[str, tuple[Any, str]] = {
    "no list": (WANDB, "integrations"),
    "no type": ([{"wandb": {"project": "p"}}], "integrations.0.type"),
    "unknown type": ([{"type": "neptune"}], "integrations.0.type"),
    "no options": ([{"type": "wandb"}], "integrations.0.wandb"),
    "no project": ([{"type": "wandb", "wandb": {"name": "n"}}], "integrations.0.wandb.project"),
    "empty project": (
        [{"type": "wandb", "wandb": {"project": ""}}],
        "integrations.0.wandb.project",
    ),
    "long project": (
        [{"type": "trackio", "trackio": {"project": "p" * 129}}],
        "integrations.0.trackio.project",
    ),
    "control character": (
        [{"type": "mlflow", "mlflow": {"experiment": "a\nb"}}],
        "integrations.0.mlflow.experiment",
    ),
    "tag not text": (
        [{"type": "wandb", "wandb": {"project": "p", "tags": [1]}}],
        "integrations.0.wandb.tags.0",
    ),
    "too many tags": (
        [{"type": "wandb", "wandb": {"project": "p", "tags": ["t"] * 17}}],
        "integrations.0.wandb.tags",
    ),
    "a secret": (
        [{"type": "wandb", "wandb": {"project": "p", "api_key": "k"}}],
        "integrations.0.wandb.api_key",
    ),
    "options of another": (
        [{"type": "tensorboard", "mlflow": {"experiment": "e"}}],
        "integrations.0.mlflow",
    ),
    "twice": ([WANDB, WANDB], "integrations"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_integrations_are_refused_and_write_nothing(tenant: Tenant, fault: str) -> None:
    integrations, param = FAULTS[fault]
    before = tenant.num_rows(Job)
    body = {
        "model": tenant.base_model,
        "training_file": tenant.upload(),
        "integrations": integrations,
    }
    response = tenant.http.post("/v1/fine_tuning/jobs", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert tenant.num_rows(Job) == before
