"""Methods compared on one project's data: one request, a job for each, one table."""

import csv
import io
from typing import Any

import httpx
import pytest

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Event, Job, JobStatus, Study, Submission
from app.models.job_progress import JobProgress
from app.models.study_request import MAX_JOBS
from falqon_core.contract.methods import METHOD_SPECS
from tests.contract.test_jobs import COST, PROGRESS
from tests.contract.test_preferences import PREFERENCES
from tests.support.api import Tenant

pytestmark = pytest.mark.both_databases
STUDIES = "/v1/falqon/studies"
MEASURED = {
    "num_trainable_parameters": 1000,
    "seconds_per_step": 0.25,
    "valid_loss": 1.25,
    "valid_loss_as_served": 1.375,
    "memory_bytes": 2**30,
}


def body(tenant: Tenant, **extra: Any) -> dict[str, Any]:
    files = {"training_file": tenant.upload(), "validation_file": tenant.upload()}
    return {"model": tenant.base_model, "methods": ["falqon", "lora"]} | files | extra


def post(tenant: Tenant, request: dict[str, Any], **headers: str) -> httpx.Response:
    return tenant.http.post(STUDIES, json=request, headers=headers)


def create(tenant: Tenant, **extra: Any) -> dict[str, Any]:
    answer = post(tenant, body(tenant, **extra))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def job(tenant: Tenant, study: dict[str, Any], index: int) -> Any:
    return tenant.client.fine_tuning.jobs.retrieve(study["jobs"][index]["id"])


def finish(tenant: Tenant, job_id: str, valid_loss: float) -> None:
    claim = tenant.claim(job_id)
    measured = MEASURED | {"valid_loss_as_served": valid_loss, "cost": COST}
    with tenant.api.database.transaction() as session:
        assert claims.finish(
            session,
            claim,
            JobStatus.SUCCEEDED,
            NewEvent("done"),
            progress=JobProgress.model_validate(PROGRESS | measured),
        )


def test_a_study_has_a_job_for_each_method_with_the_same_data_and_options(tenant: Tenant) -> None:
    study = create(
        tenant,
        name="mine",
        falqon={"rank": 8, "learning_rate": 1e-3, "simulate_fp8": True},
        learning_rates={"lora": 4e-3},
    )
    assert (study["object"], study["name"], study["status"]) == (
        "falqon.study",
        "mine",
        "in_progress",
    )
    assert [(each["method"], each["status"]) for each in study["jobs"]] == [
        ("falqon", "queued"),
        ("lora", "queued"),
    ]
    ours, lora = (job(tenant, study, index) for index in (0, 1))
    assert ours.study_id == lora.study_id == study["id"]
    assert (ours.suffix, lora.suffix) == ("falqon", "lora")
    assert ours.training_file == lora.training_file == study["training_file"]
    assert ours.validation_file == lora.validation_file == study["validation_file"]
    assert (ours.config["rank"], lora.config["rank"]) == (8, 8)
    assert (ours.config["learning_rate"], lora.config["learning_rate"]) == (1e-3, 4e-3)
    # an option that only FALQON has goes to it alone
    assert (ours.config["simulate_fp8"], lora.config["simulate_fp8"]) == (True, False)
    assert all(estimated is not None for estimated in (ours.estimate, lora.estimate))
    assert tenant.http.get(f"{STUDIES}/{study['id']}").json() == study


def test_all_methods_take_what_each_of_them_has(tenant: Tenant) -> None:
    study = create(
        tenant, methods="all", falqon={"group_size": 16, "weight_format": "e2m3"}, seeds=[3]
    )
    assert [each["method"] for each in study["jobs"]] == list(METHOD_SPECS)
    configs = {each["method"]: job(tenant, study, i).config for i, each in enumerate(study["jobs"])}
    assert configs["qa_lora"]["group_size"] == 16
    assert configs["fp6_lora"]["weight_format"] == "e2m3"
    assert {config["seed"] for config in configs.values()} == {3}


def test_figures_of_seeds_are_one_row_of_the_table(tenant: Tenant) -> None:
    study = create(tenant, methods=["lora", "falqon"], seeds=[0, 1])
    assert [(each["method"], each["seed"]) for each in study["jobs"]] == [
        ("lora", 0),
        ("lora", 1),
        ("falqon", 0),
        ("falqon", 1),
    ]
    for index, loss in ((0, 1.0), (1, 2.0)):
        finish(tenant, study["jobs"][index]["id"], loss)
    address = f"{STUDIES}/{study['id']}"
    lora, ours = tenant.http.get(address).json()["table"]
    assert (lora["name"], lora["num_jobs"], lora["valid_loss_as_served"]) == ("LoRA", 2, 1.5)
    assert lora["valid_loss_as_served_deviation"] == pytest.approx(0.5**0.5)
    assert (lora["seconds_per_step"], lora["paper_seconds_per_step"]) == (0.25, 2.87)
    assert (lora["cost"], lora["trained_parameters"]) == (COST["accrued"], 1000)
    assert (ours["num_jobs"], ours["valid_loss"]) == (2, None)

    markdown = tenant.http.get(f"{address}/table.md")
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert "| LoRA | 2 | 1,000 |" in markdown.text
    rows = list(csv.DictReader(io.StringIO(tenant.http.get(f"{address}/table.csv").text)))
    assert [(row["method"], row["valid_loss_as_served"]) for row in rows] == [
        ("lora", "1.5"),
        ("falqon", ""),
    ]


def test_a_method_stands_in_the_table_at_the_best_of_its_rates(tenant: Tenant) -> None:
    study = create(
        tenant,
        methods=["lora", "falqon"],
        learning_rates={"lora": 4e-3},
        rate_factors=[0.5, 1],
        seeds=[0, 1],
    )
    jobs = [(each["method"], each["learning_rate"], each["seed"]) for each in study["jobs"]]
    assert jobs[:4] == [("lora", 2e-3, 0), ("lora", 2e-3, 1), ("lora", 4e-3, 0), ("lora", 4e-3, 1)]
    assert job(tenant, study, 3).suffix == "lora-rate-0.004-seed-1"
    assert jobs[4][1] == jobs[6][1] / 2, "of the automatic rate"
    for index, loss in enumerate((1.0, 3.0, 1.5, 1.7)):
        finish(tenant, study["jobs"][index]["id"], loss)
    lora, ours = tenant.http.get(f"{STUDIES}/{study['id']}").json()["table"]
    assert (lora["num_jobs"], lora["learning_rate"]) == (2, 4e-3)
    assert lora["valid_loss_as_served"] == pytest.approx(1.6)
    assert (ours["num_jobs"], ours["valid_loss_as_served"]) == (2, None)


def test_preferences_are_compared_with_their_objective(tenant: Tenant) -> None:
    records = tenant.upload(PREFERENCES)
    study = create(tenant, training_file=records, validation_file=records, objective="dpo")
    configs = [job(tenant, study, index).config for index in (0, 1)]
    assert [config["objective"] for config in configs] == ["dpo", "dpo"]


def test_cancelling_a_study_cancels_the_jobs_that_have_not_ended(tenant: Tenant) -> None:
    study = create(tenant, seeds=[0, 1])
    ids = [each["id"] for each in study["jobs"]]
    finish(tenant, ids[0], 1.0)
    tenant.client.fine_tuning.jobs.pause(ids[1])
    cancelled = tenant.http.post(f"{STUDIES}/{study['id']}/cancel").json()
    assert cancelled["status"] == "completed"
    assert [each["status"] for each in cancelled["jobs"]] == ["succeeded", *["cancelled"] * 3]
    assert tenant.http.post(f"{STUDIES}/{study['id']}/cancel").json() == cancelled


def test_a_study_with_one_refused_job_writes_none(tenant: Tenant) -> None:
    tenant.limit(max_live_jobs=3)
    before = tenant.num_rows(Study, Job, Event, Submission)
    refused = post(tenant, body(tenant, seeds=[0, 1]))
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert tenant.num_rows(Study, Job, Event, Submission) == before


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"methods": []}, "methods"),
        ({"methods": ["falqon", "falqon"]}, "methods"),
        ({"methods": ["sgd"]}, "methods.0"),
        ({"methods": "all", "seeds": list(range(MAX_JOBS // len(METHOD_SPECS) + 1))}, "methods"),
        ({"seeds": []}, "seeds"),
        ({"rate_factors": [1, 1]}, "rate_factors"),
        ({"learning_rates": {"lora": 0.9}, "rate_factors": [2]}, "falqon.learning_rate"),
        ({"seeds": [1], "falqon": {"seed": 1}}, "falqon.seed"),
        ({"falqon": {"method": "lora"}}, "falqon.method"),
        ({"falqon": {"rank": 0}}, "falqon.rank"),
        ({"falqon": {"switch": {"alias": "a"}}}, "falqon.switch"),
        ({"falqon": {"group_size": 32}}, "falqon.group_size"),
        ({"learning_rates": {"qlora": 1e-3}}, "learning_rates.qlora"),
        ({"model": "nobody"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
    ],
)
def test_an_impossible_study_is_refused_by_its_parameter(
    tenant: Tenant, extra: dict[str, Any], param: str
) -> None:
    before = tenant.num_rows(Study, Job)
    refused = post(tenant, body(tenant) | extra)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert tenant.num_rows(Study, Job) == before


def test_the_same_key_and_body_are_the_same_study(tenant: Tenant) -> None:
    request = body(tenant)
    first = post(tenant, request, **{"idempotency-key": "k"}).json()
    before = tenant.num_rows(Study, Job)
    assert post(tenant, request, **{"idempotency-key": "k"}).json()["id"] == first["id"]
    mismatch = post(tenant, request | {"seeds": [1]}, **{"idempotency-key": "k"})
    assert (mismatch.status_code, mismatch.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert tenant.num_rows(Study, Job) == before
    repeated = {"x-stainless-retry-count": "1"}
    bare = post(tenant, request | {"seeds": [2]}).json()
    assert post(tenant, request | {"seeds": [2]}, **repeated).json()["id"] == bare["id"]


def test_studies_are_listed_newest_first_in_pages(tenant: Tenant, stranger: Tenant) -> None:
    request = body(tenant, methods=["lora"])
    ids = [post(tenant, request).json()["id"] for _ in range(3)]
    create(stranger)
    listed = tenant.http.get(STUDIES, params={"limit": 2}).json()
    assert [study["id"] for study in listed["data"]] == ids[:0:-1]
    assert listed["has_more"]
    rest = tenant.http.get(STUDIES, params={"after": listed["last_id"]}).json()
    assert [study["id"] for study in rest["data"]] == ids[:1]
    assert tenant.http.get(STUDIES, params={"after": "study-1"}).status_code == 400


def test_a_job_may_be_deleted_from_a_study(tenant: Tenant) -> None:
    study = create(tenant)
    tenant.http.post(f"{STUDIES}/{study['id']}/cancel")
    tenant.http.delete(f"/v1/fine_tuning/jobs/{study['jobs'][0]['id']}").raise_for_status()
    left = tenant.http.get(f"{STUDIES}/{study['id']}").json()
    assert [each["method"] for each in left["jobs"]] == ["lora"]
    assert [row["name"] for row in left["table"]] == ["LoRA"]
