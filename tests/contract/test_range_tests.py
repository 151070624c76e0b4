"""Range tests: asked for with `falqon.find_rate`, priced before, and read where jobs are."""

from collections.abc import Iterator
from contextlib import closing

import openai
import pytest

from tests.contract.test_joined_workers import OFFER, claim_of, token_for
from tests.contract.test_lying_workers import Liar, columns, result_of
from tests.support.api import Tenant
from tests.support.fake_trainer import range_test
from worker.joined.gateway import JoinedGateway

FIND_RATE = {"falqon": {"find_rate": True}}


@pytest.fixture
def worker(tenant: Tenant) -> Iterator[Liar]:
    """A worker that executes a range test."""
    tenant.job(extra_body=FIND_RATE)
    with closing(JoinedGateway(tenant.api.url, token_for(tenant)[1], "w")) as gateway:
        yield Liar(gateway, claim_of(gateway, gateway.claim(OFFER)))


def test_a_range_test_is_twenty_steps_and_priced_as_such(tenant: Tenant) -> None:
    training = tenant.job(extra_body={"falqon": {"num_epochs": 50, "batch_size": 1}})
    extras = {"falqon": {"num_epochs": 50, "batch_size": 1, "find_rate": True}}
    test = tenant.job(extra_body=extras)
    assert (training.estimate["steps"], test.estimate["steps"]) == (600, 20)
    assert test.estimate["seconds"]["expected"] < training.estimate["seconds"]["expected"]
    assert "export" not in test.estimate["explanation"]
    (warning,) = training.estimate["warnings"]
    assert "held out" in warning
    assert test.estimate["warnings"] == [], "no model comes of it that records could check"
    assert (test.config["find_rate"], test.config["num_epochs"]) == (True, 50)
    assert test.range_test is None
    body = {"model": tenant.base_model, "training_file": test.training_file} | extras
    asked = tenant.http.post("/v1/fine_tuning/estimates", json=body).json()
    assert asked["seconds"] == test.estimate["seconds"]


def test_a_range_test_ends_with_a_curve_and_no_model(tenant: Tenant, worker: Liar) -> None:
    result = range_test()
    progress = columns(step=20, range_test=result.model_dump())
    answer = worker.post("result", result_of({}, columns=progress))
    assert answer.json() == {"yes": True}, answer.text
    job = tenant.client.fine_tuning.jobs.retrieve(worker.claim.job_id)
    assert (job.status, job.fine_tuned_model) == ("succeeded", None)
    assert job.range_test == {
        "points": [point.model_dump() for point in result.points],
        "proposal": result.proposal,
        "message": result.message,
    }
    assert "range_test" not in job.progress
    cloned = tenant.http.post(
        f"/v1/fine_tuning/jobs/{job.id}/clone",
        json={"falqon": {"find_rate": False, "learning_rate": result.proposal}},
    ).json()
    assert cloned["config"]["learning_rate"] == result.proposal
    assert cloned["config"]["find_rate"] is False
    assert cloned["range_test"] is None


def test_a_worker_cannot_publish_a_model_or_no_curve_of_a_range_test(worker: Liar) -> None:
    answer = worker.post("result", result_of({"model.safetensors": b"x"}))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "files")
    point = {"learning_rate": 0.0, "loss_change": 0.0}
    for points in ([point], [point | {"learning_rate": 0.1}] * 101):
        lie = {"points": points, "outcome": "found", "proposal": 0.1}
        answer = worker.post("result", result_of({}, columns=columns(range_test=lie)))
        assert answer.status_code == 400, points
        assert "range_test" in answer.json()["error"]["message"]


def test_a_study_has_no_range_tests(tenant: Tenant) -> None:
    body = {"model": tenant.base_model, "training_file": tenant.upload(), **FIND_RATE}
    refused = tenant.http.post("/v1/falqon/studies", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "falqon.find_rate")


def test_find_rate_is_true_or_false(tenant: Tenant) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(extra_body={"falqon": {"find_rate": 30}})
    assert caught.value.param == "falqon.find_rate"
