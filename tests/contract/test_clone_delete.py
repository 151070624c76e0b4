from typing import Any

import openai
import pytest
from sqlalchemy import func, select

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Attempt, Checkpoint, Event, Job, JobMetadata, JobStatus, Submission
from app.models.trainer_log import TrainerLog
from tests.support.api import Tenant

pytestmark = pytest.mark.both_databases


def clone(
    tenant: Tenant, job_id: str, overrides: dict[str, Any] | None = None, **headers: str
) -> Any:
    return tenant.client.post(
        f"/fine_tuning/jobs/{job_id}/clone",
        body=overrides,
        cast_to=object,
        options={"headers": headers},
    )


def test_a_clone_asks_for_the_same(tenant: Tenant) -> None:
    options = {
        "suffix": "one",
        "seed": 7,
        "metadata": {"team": "a"},
        "hyperparameters": {"n_epochs": 2},
        "extra_body": {"falqon": {"rank": 8}},
    }
    job = tenant.job(**options)
    for overrides in (None, {}):
        copy = clone(tenant, job.id, overrides)
        assert copy["id"] != job.id
        same = (
            "model",
            "training_file",
            "suffix",
            "seed",
            "metadata",
            "config",
            "hyperparameters",
            "status",
            "estimate",
        )
        assert {name: copy[name] for name in same} == {name: job.to_dict()[name] for name in same}


def test_overrides_are_merged_deep_and_null_takes_away(tenant: Tenant) -> None:
    job = tenant.job(
        metadata={"team": "a", "try": "1"},
        suffix="one",
        extra_body={"falqon": {"rank": 8, "warmup_ratio": 0.1}},
    )
    copy = clone(
        tenant,
        job.id,
        {
            "metadata": {"try": "2"},
            "suffix": None,
            "falqon": {"rank": 16},
            "hyperparameters": {"n_epochs": 1},
        },
    )
    assert (copy["metadata"], copy["suffix"]) == ({"team": "a", "try": "2"}, None)
    assert (
        copy["config"]["rank"],
        copy["config"]["warmup_ratio"],
        copy["config"]["num_epochs"],
    ) == (16, 0.1, 1)
    third = clone(tenant, copy["id"], {"hyperparameters": None, "metadata": None})
    assert (third["config"]["num_epochs"], third["metadata"]) == (10, None)


SUPERVISED = {
    "type": "supervised",
    "supervised": {
        "hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 2.0}
    },
}
OLDER = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 2.0}
OURS = {"num_epochs": 3, "batch_size": 4, "learning_rate": 0.5, "seed": 9}
SAID_OTHERWISE = {
    "ours over method": (
        {"method": SUPERVISED},
        {"falqon": {"num_epochs": 2}},
        {"num_epochs": 2, "batch_size": 4},
    ),
    "ours over the older place": (
        {"hyperparameters": OLDER},
        {"falqon": {"batch_size": 2}},
        {"num_epochs": 3, "batch_size": 2},
    ),
    "a rate over its multiplier": (
        {"method": SUPERVISED},
        {"falqon": {"learning_rate": 0.25}},
        {"learning_rate": 0.25, "num_epochs": 3},
    ),
    "a multiplier over a rate": (
        {"extra_body": {"falqon": OURS}},
        {"hyperparameters": {"learning_rate_multiplier": 1.0}},
        {"num_epochs": 3},
    ),
    "the older place over ours": (
        {"extra_body": {"falqon": OURS}},
        {"hyperparameters": {"n_epochs": 1}},
        {"num_epochs": 1, "batch_size": 4},
    ),
    "the older place over method": (
        {"method": SUPERVISED},
        {"hyperparameters": {"n_epochs": 1}},
        {"num_epochs": 1, "batch_size": 4},
    ),
    "method over the older place": (
        {"hyperparameters": OLDER},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 1}}}},
        {"num_epochs": 3, "batch_size": 1},
    ),
    "auto over ours": (
        {"extra_body": {"falqon": {"num_epochs": 7}}},
        {"hyperparameters": {"n_epochs": "auto"}},
        {"num_epochs": 10},
    ),
    "seed": ({"extra_body": {"falqon": OURS}}, {"seed": 1}, {"seed": 1, "num_epochs": 3}),
    "our seed": ({"seed": 9}, {"falqon": {"seed": 1}}, {"seed": 1}),
    "patience": (
        {"extra_body": {"falqon": {"validation_fraction": 0.2, "early_stopping": {"patience": 3}}}},
        {"falqon": {"early_stopping_patience": 5}},
        {"early_stopping_patience": 5},
    ),
}


@pytest.mark.parametrize("kind", SAID_OTHERWISE)
def test_an_override_holds_whichever_way_the_original_said_it(tenant: Tenant, kind: str) -> None:
    options, overrides, config = SAID_OTHERWISE[kind]
    copy = clone(tenant, tenant.job(**options).id, overrides)
    assert config.items() <= copy["config"].items()
    if "learning_rate_multiplier" in overrides.get("hyperparameters", {}):
        assert copy["hyperparameters"]["learning_rate_multiplier"] == 1.0
    assert clone(tenant, copy["id"])["config"] == copy["config"]


def test_overrides_that_contradict_each_other_are_refused(tenant: Tenant) -> None:
    job = tenant.job(method=SUPERVISED)
    with pytest.raises(openai.BadRequestError) as caught:
        clone(tenant, job.id, {"falqon": {"num_epochs": 2}, "hyperparameters": {"n_epochs": 1}})
    assert (caught.value.param, caught.value.code) == ("n_epochs", "conflict")


REFUSED = {
    "no model": ({"model": None}, "model", "missing_required_parameter"),
    "unknown model": ({"model": "nobody"}, "model", "model_not_found"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_overrides_are_as_strict_as_a_new_job(tenant: Tenant, kind: str) -> None:
    overrides, param, code = REFUSED[kind]
    job = tenant.job(extra_body={"falqon": {"rank": 8}})
    before = tenant.num_rows(Job, Event, Submission)
    with pytest.raises(openai.BadRequestError) as caught:
        clone(tenant, job.id, overrides)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert tenant.num_rows(Job, Event, Submission) == before


def test_a_clone_is_made_once(tenant: Tenant) -> None:
    job = tenant.job()
    first = clone(tenant, job.id, {"seed": 1}, **{"Idempotency-Key": "c"})
    assert clone(tenant, job.id, {"seed": 1}, **{"Idempotency-Key": "c"})["id"] == first["id"]
    with pytest.raises(openai.UnprocessableEntityError):
        clone(tenant, job.id, {"seed": 2}, **{"Idempotency-Key": "c"})
    bare = clone(tenant, job.id, {"seed": 1})
    response = tenant.http.post(
        f"/v1/fine_tuning/jobs/{job.id}/clone",
        json={"seed": 1},
        headers={"x-stainless-retry-count": "1"},
    )
    assert response.json()["id"] == bare["id"]


def test_only_a_job_that_has_ended_is_deleted(tenant: Tenant) -> None:
    job = tenant.job()
    for prepare in (lambda: None, lambda: tenant.client.fine_tuning.jobs.pause(job.id)):
        prepare()
        response = tenant.http.delete(f"/v1/fine_tuning/jobs/{job.id}")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "job_not_ended")
        assert response.headers["x-should-retry"] == "false"
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{job.id}").json() == {
        "id": job.id,
        "object": "fine_tuning.job",
        "deleted": True,
    }
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{job.id}").status_code == 404


def test_events_and_checkpoints_go_with_the_job_and_the_model_stays(tenant: Tenant) -> None:
    job = tenant.job(metadata={"a": "b"}, extra_headers={"Idempotency-Key": "d"})
    model = f"ft:{tenant.base_model}:acme::{job.id[-8:]}"
    remaining, gone = (
        f"tests/{job.id}/{name}" for name in ("model/model.safetensors", "checkpoints/1/state.bin")
    )
    for key in (remaining, gone):
        tenant.api.storage.put(key, [b"x"])
    claim = tenant.claim(job.id)
    tenant.add_model(model, project_id=tenant.project_id, base=tenant.base_model)
    tenant.add_checkpoint(job.id, 1, storage_prefix=gone.removesuffix("/state.bin"))
    tenant.store_log(claim, TrainerLog(head="one\n"))
    with tenant.api.database.transaction() as session:
        claims.finish(
            session, claim, JobStatus.SUCCEEDED, NewEvent("done"), fine_tuned_model_id=model
        )
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{job.id}").status_code == 200
    with tenant.api.database.read() as session:
        for table in (Event, Attempt, Checkpoint, JobMetadata, Submission):
            assert (
                session.scalar(
                    select(func.count()).select_from(table).where(table.job_id == job.id)
                )
                == 0
            )
    assert tenant.api.storage.keys(f"tests/{job.id}") == [remaining]
    assert not any("/log/" in key for key in tenant.stored())
    assert tenant.client.models.retrieve(model).id == model
    for path in ("", "/events", "/checkpoints", "/metrics", "/logs", "/stream"):
        assert tenant.http.get(f"/v1/fine_tuning/jobs/{job.id}{path}").status_code == 404
