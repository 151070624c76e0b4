"""What a job shows beyond what it was asked, and what `falqon` takes beyond a recipe."""

import time
from typing import Any

import openai
import pytest

from app.base.ids import new_id
from app.jobs import claims
from app.models import Checkpoint, Event, Job, Submission
from app.models.job_progress import JobProgress
from app.workers import service as workers
from tests.support.api import Tenant
from tests.support.quiet import quiet


def test_the_place_in_the_queue(tenant: Tenant) -> None:
    quiet(tenant.api)
    with tenant.api.database.transaction() as session:
        workers.mark_seen(session, new_id("idle-"), "cpu", 2)
    retrieve = tenant.client.fine_tuning.jobs.retrieve
    first = tenant.job()
    second = tenant.job()
    before, after = (retrieve(job.id).queue for job in (first, second))
    assert after["position"] > before["position"]
    assert after["estimated_start"] >= before["estimated_start"] >= time.time() - 5
    tenant.client.fine_tuning.jobs.pause(first.id)
    assert retrieve(first.id).queue is None
    assert retrieve(second.id).queue["position"] == before["position"]
    listed = {job.id: job.queue for job in tenant.client.fine_tuning.jobs.list()}
    assert (listed[first.id], listed[second.id]["position"]) == (None, before["position"])
    tenant.claim(second.id)
    assert retrieve(second.id).queue is None


def test_the_best_checkpoint(tenant: Tenant) -> None:
    job = tenant.job()
    assert job.best_checkpoint is None
    tenant.claim(job.id)
    row = {
        "job_id": job.id,
        "attempt": 1,
        "storage_prefix": "p",
        "manifest_sha256": "0",
        "bytes": 1,
    }
    with tenant.api.database.transaction() as session:
        for step, metrics in (
            (1, {"valid_loss": 0.5}),
            (2, {"valid_loss": 0.25}),
            (3, {"valid_loss": 0.25}),
            (4, {"train_loss": 0.1}),
        ):
            session.add(Checkpoint(id=new_id("ftckpt_"), step=step, metrics=metrics, **row))
    best = tenant.client.fine_tuning.jobs.retrieve(job.id).best_checkpoint
    listed = {
        checkpoint.step_number: checkpoint
        for checkpoint in tenant.client.fine_tuning.jobs.checkpoints.list(job.id)
    }
    assert best == listed[2].to_dict()


def test_extras_that_only_this_service_knows(tenant: Tenant) -> None:
    extras = {
        "early_stopping": {"patience": 3},
        "validation_fraction": 0.2,
        "gpu": "any",
        "num_gpus": 1,
        "sample_prompts": [],
    }
    job = tenant.job(extra_body={"falqon": extras})
    assert job.config["early_stopping_patience"] == 3
    assert not {"gpu", "num_gpus", "early_stopping", "sample_prompts"} & set(job.config)
    assert tenant.job(extra_body={"falqon": {"gpu": "cpu"}}).status == "queued"
    both = {
        "early_stopping": {"patience": 3},
        "early_stopping_patience": 3,
        "validation_fraction": 0.2,
    }
    assert tenant.job(extra_body={"falqon": both}).config["early_stopping_patience"] == 3


REFUSED = {
    "blind early stopping": (
        {"early_stopping": {"patience": 2}},
        "early_stopping_patience",
        "invalid_value",
    ),
    "two patiences": (
        {
            "early_stopping": {"patience": 2},
            "early_stopping_patience": 3,
            "validation_fraction": 0.2,
        },
        "early_stopping_patience",
        "invalid_value",
    ),
    "min_delta": (
        {"early_stopping": {"patience": 2, "min_delta": 0.1}, "validation_fraction": 0.2},
        "early_stopping.min_delta",
        "invalid_value",
    ),
    "no patience": (
        {"early_stopping": {}},
        "early_stopping.patience",
        "missing_required_parameter",
    ),
    "patience as text": (
        {"early_stopping": {"patience": "2"}},
        "early_stopping.patience",
        "invalid_value",
    ),
    "another device": ({"gpu": "h100-sxm"}, "gpu", "gpu_not_available"),
    "several GPUs of a CPU": ({"num_gpus": 2}, "num_gpus", "too_few_gpus"),
    "no GPU": ({"num_gpus": 0}, "num_gpus", "invalid_value"),
    "prompts": ({"sample_prompts": ["hello"]}, "sample_prompts", "invalid_value"),
    "no method": ({"method": "alchemy"}, "method", "invalid_value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_extras_that_cannot_be_honoured(tenant: Tenant, kind: str) -> None:
    extras, param, code = REFUSED[kind]
    file_id = tenant.upload()
    before = tenant.num_rows(Job, Event, Submission)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(training_file=file_id, extra_body={"falqon": extras})
    assert (caught.value.param, caught.value.code) == (f"falqon.{param}", code)
    assert tenant.num_rows(Job, Event, Submission) == before


NUL: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "a\0b"}, "model"),
    "training_file": ({"training_file": "a\0b"}, "training_file"),
    "validation_file": ({"validation_file": "a\0b"}, "validation_file"),
    "suffix": ({"suffix": "a\0b"}, "suffix"),
    "metadata value": ({"metadata": {"k": "a\0b"}}, "metadata.k"),
    "metadata key": ({"metadata": {"a\0b": "v"}}, "metadata"),
    "device": ({"extra_body": {"falqon": {"gpu": "a\0b"}}}, "falqon.gpu"),
    "layer": ({"extra_body": {"falqon": {"target_modules": ["a\0b"]}}}, "falqon.target_modules.0"),
    "path": ({"training_file": "../../etc/passwd"}, "training_file"),
}


@pytest.mark.parametrize("kind", NUL)
def test_text_that_cannot_be_kept_is_refused_by_name(tenant: Tenant, kind: str) -> None:
    extra, param = NUL[kind]
    file_id = tenant.upload()
    before = tenant.num_rows(Job, Event, Submission)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(**{"training_file": file_id} | extra)
    assert caught.value.param == param
    assert caught.value.code
    assert tenant.num_rows(Job, Event, Submission) == before


def test_ids_with_slashes_and_nul_name_nothing(tenant: Tenant) -> None:
    for id_ in ("a%2Fb", "..%2F..%2Fetc", "a%00b", "%20"):
        for path in ("", "/events", "/checkpoints", "/metrics", "/logs", "/stream"):
            response = tenant.http.get(f"/v1/fine_tuning/jobs/{id_}{path}")
            assert response.status_code in (400, 404), (id_, path)
            assert response.json()["error"]["code"]
            assert response.headers["x-request-id"]


def test_graders_say_what_is_missing(tenant: Tenant) -> None:
    graders = tenant.client.fine_tuning.alpha.graders
    grader: Any = {
        "type": "string_check",
        "name": "n",
        "input": "a",
        "operation": "eq",
        "reference": "a",
    }
    for call in (
        lambda: graders.run(grader=grader, model_sample="a"),
        lambda: graders.validate(grader=grader),
    ):
        with pytest.raises(openai.NotFoundError, match="reinforcement") as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("graders_not_supported", "grader")


def test_a_job_has_an_estimated_finish_only_while_it_runs(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).estimated_finish is None
    with tenant.api.database.transaction() as session:
        claims.append_events(
            session,
            claim,
            [],
            progress=JobProgress(step=1, total_steps=2, eta_seconds=30.0, cost=None),
        )
    assert 20 < tenant.client.fine_tuning.jobs.retrieve(job.id).estimated_finish - time.time() < 40
