"""Estimates from what was measured, when a job's turn comes, and how well estimates were kept."""

import time
from decimal import Decimal
from typing import Any

import openai
import pytest
from sqlalchemy import update

from app.base.database import now_plus
from app.jobs import claims
from app.jobs.events import NewEvent
from app.jobs.queue_forecast import read_queue
from app.models import Evaluation, Job, JobStatus, Model, OperationStatus, Project, Worker
from app.models.job_progress import JobCost, JobProgress
from app.workers import service as workers
from falqon_core.estimate.estimate import STEP_SECONDS, Actual
from tests.contract.access_objects import an_evaluation
from tests.support.api import TINY_CONFIG, Tenant, jsonl
from tests.support.quiet import quiet

pytestmark = pytest.mark.both_databases

ACTUAL = {"seconds": 12.0, "cost": "0.0100", "ratio": 1.5, "inside_band": True}


def estimate_of(tenant: Tenant, query: dict[str, Any] | None = None, **extra: Any) -> Any:
    body = {"model": tenant.base_model, "training_file": tenant.upload()} | extra
    return tenant.client.post(
        "/fine_tuning/estimates", body=body, cast_to=object, options={"params": query or {}}
    )


def finish(
    tenant: Tenant, *, tokens: int | None, actual: dict[str, Any] | None = ACTUAL, **extra: Any
) -> str:
    """A job of this tenant that has succeeded, as a worker would leave it."""
    job = tenant.job(**extra)
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        if tokens is not None:
            claims.update_attempt(
                session, claim, tokens=tokens, train_seconds=10.0, overhead_seconds=4.0
            )
        assert claims.finish(
            session,
            claim,
            JobStatus.SUCCEEDED,
            NewEvent("done"),
            actual=actual and Actual.model_validate(actual),
        )
    return str(job.id)


def test_the_first_job_of_a_kind_is_estimated_by_a_roofline(tenant: Tenant) -> None:
    estimate = estimate_of(tenant)
    assert (estimate["basis"], estimate["n"], estimate["reason"]) == ("roofline", 0, None)
    assert 10 < estimate["overhead_seconds"] < estimate["seconds"]["expected"], (
        "the start and the export of a small model, too"
    )
    assert (estimate["device"], estimate["num_devices"], estimate["tokens_basis"]) == (
        "cpu",
        2,
        "characters",
    )
    assert (
        estimate["seconds"]["low"] <= estimate["seconds"]["expected"] <= estimate["seconds"]["high"]
    )
    assert all(
        isinstance(estimate["cost"][name], str)
        for name in ("low", "expected", "high", "usd_per_device_hour")
    )


def test_an_estimate_and_its_job_say_what_it_takes_to_ask_the_model(tenant: Tenant) -> None:
    with tenant.api.database.transaction() as session:
        for name, kind in (("plain", "llama"), ("other", "olmo2")):
            config = TINY_CONFIG | {"model_type": kind}
            session.add(Model(id=f"{tenant.base_model}-{name}", config=config, bytes=1))
    assert estimate_of(tenant, model=f"{tenant.base_model}-plain")["engine_note"] is None
    model = f"{tenant.base_model}-other"
    note = estimate_of(tenant, model=model)["engine_note"]
    assert "there is no GGUF for the architecture 'olmo2'. vLLM on the worker" in note
    job = tenant.job(model=model)
    assert job.to_dict()["estimate"]["engine_note"] == note  # type: ignore[index]


def test_an_estimate_has_the_evaluation_that_follows(tenant: Tenant) -> None:
    model = f"{tenant.base_model}-asked"
    with tenant.api.database.transaction() as session:
        session.add(Model(id=model, config=TINY_CONFIG | {"model_type": "llama"}, bytes=1))
    rows = {"model": model, "training_file": tenant.upload(jsonl(100))}
    estimate = estimate_of(tenant, **rows)
    evaluation = estimate["evaluation"]
    assert evaluation["num_rows"] == estimate["num_validation_records"] == 10
    assert Decimal(evaluation["cost"]) > 0
    assert tenant.job(**rows).estimate["evaluation"] == evaluation
    texts = tenant.upload(b'{"text": "Once upon a time"}\n' * 100)
    for change in (
        {"falqon": {"evaluate": False}},
        {"falqon": {"find_rate": True}},
        {"falqon": {"validation_fraction": 0}},
        {"training_file": texts},
        {"model": tenant.base_model},  # no engine loads it
    ):
        assert estimate_of(tenant, **rows | change)["evaluation"] is None

    params = an_evaluation(tenant)
    measured: dict[str, Any] = {"num_answers": 8, "seconds": 4.0, "cost": Decimal("0.0800")}
    measured["status"] = OperationStatus.COMPLETED
    with tenant.api.database.transaction() as session:
        is_it = Evaluation.id == params["evaluation_id"]
        session.execute(update(Evaluation).where(is_it).values(**measured))
        session.execute(update(Job).where(Job.id == params["job_id"]).values(base_model_id=model))
    evaluation = estimate_of(tenant, **rows)["evaluation"]
    assert evaluation == {"num_rows": 10, "seconds": 10.0, "cost": "0.2000"}
    name = {"name": "support", "model": tenant.base_model}  # a third model that is asked
    tenant.http.post("/v1/aliases", json=name).raise_for_status()
    switch = {"falqon": {"switch": {"alias": "support"}}}
    evaluation = estimate_of(tenant, **rows | switch)["evaluation"]
    assert evaluation == {"num_rows": 10, "seconds": 15.0, "cost": "0.3000"}

    with tenant.api.database.transaction() as session:
        session.get_one(Project, tenant.project_id).evaluate = False
    assert estimate_of(tenant, **rows)["evaluation"] is None


def test_later_estimates_use_the_rates_of_finished_jobs(tenant: Tenant) -> None:
    for tokens in (900, 1000, 1100):
        finish(tenant, tokens=tokens)
    finish(tenant, tokens=10**6, method={"type": "supervised"}, extra_body={"falqon": {"rank": 16}})
    estimate = estimate_of(tenant)
    assert (estimate["basis"], estimate["n"], estimate["overhead_seconds"]) == ("measured", 4, 4.0)
    assert estimate["tokens_per_second"] == pytest.approx(105, rel=0.01), (
        "the median of 90, 100, 110 and one that went wrong"
    )
    assert estimate["seconds"]["expected"] == pytest.approx(estimate["trained_tokens"] / 105 + 4)
    assert (
        estimate["seconds"]["low"] < estimate["seconds"]["expected"] < estimate["seconds"]["high"]
    )


def test_an_estimate_uses_measurements_of_the_same_kind_only(
    tenant: Tenant, stranger: Tenant
) -> None:
    finish(tenant, tokens=1000)
    failed = tenant.job()
    claim = tenant.claim(failed.id)
    with tenant.api.database.transaction() as session:
        claims.update_attempt(session, claim, tokens=77, train_seconds=1.0)
        claims.finish(
            session,
            claim,
            JobStatus.FAILED,
            NewEvent("no"),
            failure=claims.JobFailure("loss_not_finite", "no"),
        )
    assert estimate_of(tenant)["n"] == 1
    assert estimate_of(stranger)["n"] == 0, "another model"
    assert estimate_of(tenant, {"device": "h100"})["n"] == 0, "another device"
    assert estimate_of(tenant, {"device": "cpu", "num_devices": 4})["n"] == 0, (
        "another number of cores"
    )


def test_any_device_can_be_asked_for(tenant: Tenant) -> None:
    single, eight = (
        estimate_of(tenant, {"device": "h100", "num_devices": n}, falqon={"batch_size": 8})
        for n in (1, 8)
    )
    assert (single["device"], eight["num_devices"], single["fits"]) == ("h100", 8, True)
    fixed = single["overhead_seconds"] + STEP_SECONDS["gpu"] * single["steps"]
    assert eight["seconds"]["expected"] - fixed == pytest.approx(
        (single["seconds"]["expected"] - fixed) / 8
    )
    for query, param, code in (
        ({"device": "abacus"}, "device", "unknown_device"),
        ({"device": "h100", "num_devices": 0}, "num_devices", "invalid_value"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            estimate_of(tenant, query)
        assert (caught.value.param, caught.value.code) == (param, code)


def test_an_estimate_says_what_each_number_of_gpus_buys(tenant: Tenant) -> None:
    assert estimate_of(tenant)["by_num_gpus"] == [], "a CPU"
    estimate = estimate_of(tenant, {"device": "h100", "num_devices": 3}, falqon={"batch_size": 3})
    choices = estimate["by_num_gpus"]
    assert [choice["num_devices"] for choice in choices] == [1, 2, 3]
    assert {name: estimate[name] for name in ("seconds", "cost")} == {
        name: choices[-1][name] for name in ("seconds", "cost")
    }
    seconds = [choice["seconds"]["expected"] for choice in choices]
    assert seconds == sorted(seconds, reverse=True)


def test_an_estimate_says_when_memory_does_not_suffice(tenant: Tenant) -> None:
    estimate = estimate_of(
        tenant, {"device": "rtx-4090"}, falqon={"microbatch_tokens": 1_000_000_000}
    )
    assert (estimate["fits"], estimate["reason"]) == (False, "memory_exceeds_device")


@pytest.mark.parametrize("budget", [{"max_seconds": 8}, {"max_cost_usd": "0.08"}])
def test_a_job_is_foreseen_up_to_its_budget(tenant: Tenant, budget: dict[str, Any]) -> None:
    api = tenant.api
    quiet(api)
    first = tenant.job(extra_body={"falqon": {"budget": budget}})
    second = tenant.job()
    with api.database.transaction() as session:
        job = session.get_one(Job, first.id)
        assert job.estimate is not None
        seconds = job.estimate.seconds.model_copy(update={"expected": 400.0})
        cost = job.estimate.cost.model_copy(update={"expected": Decimal("4.0000")})
        job.estimate = job.estimate.model_copy(update={"seconds": seconds, "cost": cost})
        workers.mark_seen(session, "idle", "cpu", 2)
    with api.database.read() as session:
        assert read_queue(session, api.settings).seconds_of(first.id) == pytest.approx(8.0)
    before = time.time()
    waiting = tenant.client.fine_tuning.jobs.retrieve(second.id)
    # whole seconds; the service has looked at its clock between these two
    assert before + 8 - 1 <= waiting.queue["estimated_start"] <= time.time() + 8


def test_a_job_waits_for_the_kind_of_device_that_it_names(tenant: Tenant) -> None:
    api = tenant.api
    quiet(api)
    with api.database.transaction() as session:
        for worker, device in (("small", "rtx-4090"), ("large", "h100")):
            workers.mark_seen(session, worker, device, 1)
    named = {"falqon": {"gpu": "rtx-4090"}}
    estimate = estimate_of(tenant, **named)
    by_device = {each["device"]: each for each in estimate["by_device"]}
    assert by_device.keys() == {"rtx-4090", "h100"}
    assert estimate["device"] == "rtx-4090"
    assert estimate["seconds"] == by_device["rtx-4090"]["seconds"]
    prices = {name: Decimal(each["cost"]["expected"]) for name, each in by_device.items()}
    seconds = {name: each["seconds"]["expected"] for name, each in by_device.items()}
    assert estimate["cheapest_device"] == min(prices, key=lambda name: prices[name])
    assert estimate["fastest_device"] == min(seconds, key=lambda name: seconds[name])

    job = tenant.job(extra_body=named)
    assert (job.gpu, job.queue["position"], job.queue["reason"]) == ("rtx-4090", 1, None)
    with api.database.transaction() as session:
        session.execute(update(Worker).where(Worker.id == "small").values(seen_at=now_plus(-3_600)))
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).queue["reason"] == "no_worker_of_device"
    for device, taken in (("h100", None), ("rtx-4090", job.id)):
        with api.database.transaction() as session:
            claimed = claims.claim(
                session, owner="w", device=device, num_devices=1, lease_seconds=60
            )
            assert (claimed and claimed.id) == taken
    quiet(api)  # later tests are about a service that trains on its CPU


def test_a_job_starts_when_the_jobs_before_it_have_ended(tenant: Tenant) -> None:
    api = tenant.api
    quiet(api)
    first = tenant.job()
    second = tenant.job()
    assert (first.queue["position"], second.queue["position"]) == (1, 2)
    assert (
        second.queue["num_workers"],
        second.queue["estimated_start"],
        second.queue["reason"],
    ) == (0, None, "no_live_worker")
    with api.database.transaction() as session:
        job = claims.claim(session, owner="busy", device="cpu", num_devices=2, lease_seconds=600)
        assert job is not None
        assert job.id == first.id
        claims.append_events(
            session,
            claims.Claim(job.id, job.attempt, "busy"),
            [],
            progress=JobProgress(eta_seconds=500.0),
        )
    jobs = tenant.client.fine_tuning.jobs
    running = jobs.retrieve(first.id)
    waiting = jobs.retrieve(second.id)
    assert running.queue is None
    assert waiting.queue["position"] == 1
    assert 450 <= waiting.queue["estimated_start"] - time.time() <= 500
    newest = next(iter(jobs.list(limit=2)))
    assert (newest.id, newest.queue["position"]) == (second.id, 1)
    with api.database.transaction() as session:
        workers.mark_seen(session, "idle", "cpu", 2)
    assert jobs.retrieve(second.id).queue["num_workers"] == 2
    assert jobs.retrieve(second.id).queue["estimated_start"] - time.time() <= 1
    for call in (jobs.pause, jobs.cancel):
        call(second.id)
        assert jobs.retrieve(second.id).queue is None


def test_accuracy_is_of_the_project_and_by_kind(tenant: Tenant, stranger: Tenant) -> None:
    for ratio, inside in ((1.1, True), (0.9, True), (4.0, False), (None, None)):
        job_id = finish(
            tenant, tokens=None, actual=ACTUAL | {"ratio": ratio, "inside_band": inside}
        )
    finish(tenant, tokens=None, actual=None)
    assert tenant.client.fine_tuning.jobs.retrieve(job_id).actual["ratio"] is None
    page = tenant.http.get("/v1/fine_tuning/estimates/accuracy").json()
    (row,) = page["data"]
    assert (row["model"], row["method"], row["device"]) == (tenant.base_model, "falqon", "cpu")
    assert (row["n"], row["median_ratio"], row["inside_band"]) == (3, 1.1, 0.6667)
    assert page["has_more"] is False
    assert stranger.http.get("/v1/fine_tuning/estimates/accuracy").json()["data"] == []


def test_a_budget_below_the_estimate_is_accepted_with_a_warning(tenant: Tenant) -> None:
    for budget, param in (
        ({"max_cost_usd": "0.0001"}, "max_cost_usd"),
        ({"max_seconds": 1}, "max_seconds"),
    ):
        finish(tenant, tokens=1)
        job = tenant.job(extra_body={"falqon": {"budget": budget}})
        assert job.status == "queued"
        assert job.budget == {"max_cost_usd": None, "max_seconds": None} | budget
        (warning,) = [
            event
            for event in tenant.client.fine_tuning.jobs.list_events(job.id)
            if event.level == "warn"
        ]
        assert warning.data == {"code": "budget_below_start", "param": f"falqon.budget.{param}"}
        assert "Start and export alone take about" in warning.message
        assert warning.message in job.estimate["warnings"]
    enough = tenant.job(
        extra_body={"falqon": {"budget": {"max_cost_usd": "99.00", "max_seconds": 10**6}}}
    )
    assert {event.level for event in tenant.client.fine_tuning.jobs.list_events(enough.id)} == {
        "info"
    }


@pytest.mark.parametrize(
    ("budget", "param"),
    [
        ({"max_cost_usd": 5}, "falqon.budget.max_cost_usd"),
        ({"max_cost_usd": "-1"}, "falqon.budget.max_cost_usd"),
        ({"max_cost_usd": "0"}, "falqon.budget.max_cost_usd"),
        ({"max_cost_usd": "NaN"}, "falqon.budget.max_cost_usd"),
        ({"max_seconds": "60"}, "falqon.budget.max_seconds"),
        ({"max_seconds": 0}, "falqon.budget.max_seconds"),
    ],
)
def test_a_budget_is_money_as_text_and_whole_seconds(
    tenant: Tenant, budget: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(extra_body={"falqon": {"budget": budget}})
    assert caught.value.param == param
    job = tenant.job()
    tenant.client.fine_tuning.jobs.pause(job.id)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.fine_tuning.jobs.resume(job.id, extra_body={"falqon": {"budget": budget}})
    assert caught.value.param == param
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).status == "paused"


def test_an_exhausted_budget_must_be_raised_to_resume(tenant: Tenant) -> None:
    jobs = tenant.client.fine_tuning.jobs
    job = tenant.job(
        extra_body={"falqon": {"budget": {"max_cost_usd": "0.5000", "max_seconds": 60}}}
    )
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        claims.pause(session, claim, "budget: max_cost_usd 0.5000 is used up")
        cost = JobCost.model_validate(job.cost | {"accrued": "0.5000"})
        spent = {"progress": JobProgress(cost=cost), "execution_seconds": 30.0}
        assert claims.release(
            session,
            claim,
            NewEvent("paused"),
            counts_as_failure=False,
            max_infra_failures=3,
            **spent,
        )
    paused = jobs.retrieve(job.id)
    assert (paused.status, paused.paused_reason) == (
        "paused",
        "budget: max_cost_usd 0.5000 is used up",
    )
    assert (paused.execution_seconds, paused.cost["accrued"]) == (30.0, "0.5000")
    for extra in (
        {},
        {"extra_body": {}},
        {"extra_body": {"falqon": {"budget": {"max_cost_usd": "0.5"}}}},
    ):
        with pytest.raises(openai.BadRequestError, match="resume with a higher cap") as caught:
            jobs.resume(job.id, **extra)
        assert (caught.value.code, caught.value.param) == (
            "budget_exhausted",
            "falqon.budget.max_cost_usd",
        )
        assert caught.value.response.headers["x-should-retry"] == "false"
    resumed = jobs.resume(job.id, extra_body={"falqon": {"budget": {"max_cost_usd": "2.00"}}})
    assert (resumed.status, resumed.paused_reason) == ("queued", None)
    assert resumed.budget == {"max_cost_usd": "2.00", "max_seconds": 60}
    assert Decimal(resumed.cost["accrued"]) == Decimal("0.5")


def test_a_file_that_has_not_arrived_is_estimated_by_its_size(tenant: Tenant) -> None:
    def estimate(**body: Any) -> Any:
        body["model"] = tenant.base_model
        return tenant.http.post("/v1/fine_tuning/estimates", json=body).json()

    of_file = estimate(training_file=tenant.upload())
    size = {"num_records": of_file["num_records"], "num_tokens": of_file["tokens_per_epoch"]}
    of_size = estimate(training_data=size)
    assert of_size["tokens_basis"] == "stated"
    assert of_size["explanation"].endswith("tokens as the request says")
    for name in ("steps", "trained_tokens", "memory_bytes", "seconds", "cost"):
        assert of_size[name] == of_file[name], name
    size = {"num_records": 1000, "num_tokens": 90_000}
    for validation_file, num_checked in ((None, 100), ("file-to-come", 0), (tenant.upload(), 12)):
        checked = estimate(training_data=size, validation_file=validation_file)
        assert checked["num_validation_records"] == num_checked
        assert checked["num_records"] == (900 if validation_file is None else 1000)
    broken = estimate(training_data=size, validation_file=tenant.upload(b"no JSON"))
    assert broken["error"]["code"] == "invalid_validation_file"
    for both_or_none in ({"training_file": tenant.upload(), "training_data": size}, {}):
        assert estimate(**both_or_none)["error"]["param"] == "training_file"
    nothing = estimate(training_data=size | {"num_records": 0})
    assert nothing["error"]["param"] == "training_data.num_records"
