import json
from typing import Any

import openai
import pytest

from app.models import Event, Job, Model
from tests.support.api import TINY_CONFIG, Tenant, jsonl

PROGRESS = {
    "step": 4,
    "total_steps": 10,
    "epoch": 0.4,
    "percent": 40.0,
    "tokens_per_second": 900.0,
    "eta_seconds": 60.0,
    "eta_low_seconds": 50.0,
    "eta_high_seconds": 70.0,
    "train_loss": 1.5,
    "trained_tokens": 3600,
    "elapsed_seconds": 4.0,
}
COST = {
    "currency": "usd",
    "usd_per_device_hour": "0.045",
    "price_source": "test",
    "accrued": "0.0100",
    "projected": "0.0250",
    "projected_low": "0.0200",
    "projected_high": "0.0300",
}


def jobs_of(tenant: Tenant) -> Any:
    return tenant.client.fine_tuning.jobs


def messages(tenant: Tenant, job_id: str) -> list[str]:
    return [event.message for event in jobs_of(tenant).list_events(job_id)][::-1]


def test_a_job_on_a_checked_file_is_queued_with_everything_resolved(tenant: Tenant) -> None:
    job = tenant.job(
        suffix="first",
        metadata={"team": "a"},
        seed=7,
        extra_body={"falqon": {"rank": 16, "learning_rate": 0.001}},
    )
    assert job.object == "fine_tuning.job"
    assert job.id.startswith("ftjob-")
    assert (job.status, job.model, job.organization_id) == (
        "queued",
        tenant.base_model,
        tenant.project_id,
    )
    assert (job.seed, job.metadata, job.integrations, job.result_files) == (
        7,
        {"team": "a"},
        [],
        [],
    )
    assert (
        job.error,
        job.fine_tuned_model,
        job.finished_at,
        job.trained_tokens,
        job.validation_file,
    ) == (None,) * 5
    assert job.estimated_finish is None
    assert job.hyperparameters.to_dict() == {
        "n_epochs": 10,
        "batch_size": 4,
        "learning_rate_multiplier": 2.0,
    }
    assert job.method.supervised.hyperparameters.n_epochs == 10
    assert (job.config["rank"], job.config["alpha"], job.config["seed"]) == (16, 16.0, 7)
    assert job.estimate["steps"] == 30
    assert job.cost["accrued"] == "0.0000"
    assert job.cost["projected"] == str(job.estimate["cost"]["expected"])
    assert (job.progress, job.attempts, job.paused_reason) == (None, [], None)
    again = jobs_of(tenant).retrieve(job.id)
    assert again.queue["position"] == job.queue["position"]
    again.queue = job.queue  # its estimated start moves with the clock
    assert again == job
    assert messages(tenant, job.id)[0] == f"Created fine-tuning job: {job.id}"


def test_official_hyperparameters_in_both_places(tenant: Tenant) -> None:
    numbers = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    for extra in (
        {"hyperparameters": numbers},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}},
    ):
        job = tenant.job(**extra)
        assert job.hyperparameters.to_dict() == {
            "n_epochs": 2,
            "batch_size": 4,
            "learning_rate_multiplier": 0.5,
        }
        assert job.config["learning_rate"] == 2.5e-4
    both = {
        "hyperparameters": numbers,
        "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}},
    }
    assert tenant.job(**both).hyperparameters.n_epochs == 2


def test_a_job_waits_for_its_files_and_the_last_check_releases_it(tenant: Tenant) -> None:
    training = tenant.upload(check=False)
    validation = tenant.upload(check=False)
    job = tenant.job(
        training_file=training, validation_file=validation, hyperparameters={"batch_size": 2}
    )
    assert job.status == "validating_files"
    assert job.hyperparameters.to_dict() == {
        "n_epochs": "auto",
        "batch_size": 2,
        "learning_rate_multiplier": "auto",
    }
    assert (job.config, job.estimate, job.cost) == (None, None, None)
    assert tenant.check(training) == []
    assert jobs_of(tenant).retrieve(job.id).status == "validating_files"
    assert tenant.check(validation) == [job.id]
    job = jobs_of(tenant).retrieve(job.id)
    assert (job.status, job.config["batch_size"]) == ("queued", 2)
    assert job.estimate["num_records"] == 12
    assert tenant.check(validation) == []


def test_a_job_whose_file_turns_out_faulty_fails_with_the_reason(tenant: Tenant) -> None:
    validation = tenant.upload(b"{oops}\n", check=False)
    job = tenant.job(validation_file=validation)
    assert tenant.check(validation) == []
    job = jobs_of(tenant).retrieve(job.id)
    assert job.status == "failed"
    assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")
    assert "line 1, column 2" in job.error.message
    assert job.finished_at is not None


def test_a_file_too_small_to_hold_some_out_ends_its_job_before_or_after_its_check(
    tenant: Tenant,
) -> None:
    request: dict[str, Any] = {
        "training_file": tenant.upload(jsonl(1), check=False),
        "extra_body": {"falqon": {"early_stopping_patience": 2}},
    }
    waiting = tenant.job(**request)
    assert waiting.status == "validating_files"
    assert tenant.check(request["training_file"]) == []
    failed = jobs_of(tenant).retrieve(waiting.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_value")
    with pytest.raises(openai.BadRequestError, match="1 records are too few") as caught:
        tenant.job(**request)
    assert caught.value.param == failed.error.param == "falqon.validation_fraction"
    assert failed.error.message in caught.value.message


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown model": ({"model": "nobody"}, "model", "model_not_found"),
    "unknown file": ({"training_file": "file-nobody"}, "training_file", "invalid_training_file"),
    "unknown validation file": (
        {"validation_file": "file-nobody"},
        "validation_file",
        "invalid_validation_file",
    ),
    "long suffix": ({"suffix": "x" * 65}, "suffix", "invalid_value"),
    "suffix with a colon": ({"suffix": "a:b"}, "suffix", "invalid_value"),
    "too many epochs": ({"hyperparameters": {"n_epochs": 51}}, "n_epochs", "invalid_value"),
    "epochs as text": (
        {"hyperparameters": {"n_epochs": "3"}},
        "hyperparameters.n_epochs",
        "invalid_value",
    ),
    "no epochs": (
        {"hyperparameters": {"n_epochs": 0}},
        "hyperparameters.n_epochs",
        "invalid_value",
    ),
    "absurd rate": (
        {"hyperparameters": {"learning_rate_multiplier": 1e6}},
        "learning_rate_multiplier",
        "invalid_value",
    ),
    "reinforcement": (
        {"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}},
        "method",
        "invalid_value",
    ),
    "no beta": (
        {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.0}}}},
        "method.dpo.hyperparameters.beta",
        "invalid_value",
    ),
    "dpo of answers that nobody compared": (
        {"method": {"type": "dpo"}},
        "training_file",
        "invalid_training_file",
    ),
    "an option of another method": (
        {"extra_body": {"falqon": {"method": "qlora", "update_rule": "topk"}}},
        "falqon.update_rule",
        "invalid_value",
    ),
    "unheard-of system": (
        {"extra_body": {"falqon": {"method": "magic"}}},
        "falqon.method",
        "invalid_value",
    ),
    "unheard-of method": ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
    "negative seed": ({"seed": -1}, "seed", "invalid_value"),
    "unknown field": ({"extra_body": {"rank": 3}}, "rank", "unknown_parameter"),
    "unknown extra": (
        {"extra_body": {"falqon": {"ranks": 3}}},
        "falqon.ranks",
        "unknown_parameter",
    ),
    "rank as text": ({"extra_body": {"falqon": {"rank": "3"}}}, "falqon.rank", "invalid_value"),
    "rank beyond the model": (
        {"extra_body": {"falqon": {"rank": 65}}},
        "falqon.rank",
        "invalid_value",
    ),
    "groups that do not fit": (
        {"extra_body": {"falqon": {"method": "qa_lora", "group_size": 48}}},
        "falqon.group_size",
        "invalid_value",
    ),
    "a rank that does not divide": (
        {"extra_body": {"falqon": {"method": "ir_lora", "rank": 12}}},
        "falqon.rank",
        "invalid_value",
    ),
    "weights of another method": (
        {"extra_body": {"falqon": {"method": "lora", "weights": "nvfp4"}}},
        "falqon.weights",
        "invalid_value",
    ),
    "weights without a form for an adapter": (
        {"extra_body": {"falqon": {"weights": "nvfp4", "serve_as": "shared"}}},
        "falqon.serve_as",
        "shared_not_available",
    ),
    "no such layer": (
        {"extra_body": {"falqon": {"target_modules": ["w1"]}}},
        "falqon.target_modules",
        "invalid_value",
    ),
    "impossible pair": (
        {"extra_body": {"falqon": {"update_rule": "topk", "alpha": 1}}},
        "falqon.alpha",
        "invalid_value",
    ),
    "early stopping blind": (
        {"extra_body": {"falqon": {"early_stopping_patience": 2, "validation_fraction": 0}}},
        "falqon.early_stopping_patience",
        "invalid_value",
    ),
    "two epochs": (
        {"hyperparameters": {"n_epochs": 1}, "extra_body": {"falqon": {"num_epochs": 2}}},
        "n_epochs",
        "conflict",
    ),
    "two seeds": ({"seed": 1, "extra_body": {"falqon": {"seed": 2}}}, "seed", "conflict"),
    "two rates": (
        {
            "hyperparameters": {"learning_rate_multiplier": 1.0},
            "extra_body": {"falqon": {"learning_rate": 0.1}},
        },
        "learning_rate_multiplier",
        "conflict",
    ),
    "two places": (
        {
            "hyperparameters": {"n_epochs": 1},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        },
        "hyperparameters",
        "conflict",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_impossible_job_is_refused_and_nothing_is_written(tenant: Tenant, kind: str) -> None:
    extra, param, code = REFUSED[kind]
    training_file = tenant.upload()
    before = tenant.num_rows(Job, Event)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(**{"training_file": training_file} | extra)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.request_id is not None
    assert error.response.headers["x-should-retry"] == "false"
    assert tenant.num_rows(Job, Event) == before


def test_fields_that_train_nothing_are_warned_of_before_a_job_costs_anything(
    tenant: Tenant,
) -> None:
    record = {"messages": [{"role": "assistant", "content": "a"}], "source": "b"}
    file_id = tenant.upload(json.dumps(record).encode() + b"\n")
    warning = "rows.jsonl: fields that train nothing: 'source' in 1 record."
    request = {"model": tenant.base_model, "training_file": file_id}
    estimate: Any = tenant.client.post("/fine_tuning/estimates", body=request, cast_to=object)
    assert estimate["warnings"][0] == warning
    job = jobs_of(tenant).create(**request)
    assert job.estimate["warnings"][0] == warning
    events = jobs_of(tenant).list_events(job.id).data
    assert [event.message for event in events if event.level == "warn"] == [warning]


def test_a_tenth_is_held_out_and_the_estimate_says_so(tenant: Tenant) -> None:
    request = {"model": tenant.base_model, "training_file": tenant.upload(jsonl(162))}
    job = jobs_of(tenant).create(**request)
    estimate = job.estimate
    assert (estimate["num_records"], estimate["num_validation_records"]) == (146, 16)
    assert (estimate["warnings"], estimate["steps"]) == ([], 3 * 37)
    assert any("146 records to train, 16 to check" in told for told in messages(tenant, job.id))
    assert (job.config["validation_fraction"], job.config["validation_seed"]) == (0.1, 0)
    other = jobs_of(tenant).create(**request, extra_body={"falqon": {"validation_fraction": 0}})
    by_file = jobs_of(tenant).create(**request, validation_file=tenant.upload(jsonl(7)))
    counts = [each.estimate["num_validation_records"] for each in (other, by_file)]
    assert (counts, other.estimate["warnings"]) == ([0, 7], [])
    small = tenant.job()
    assert (small.estimate["num_validation_records"], small.config["validation_fraction"]) == (0, 0)
    (warning,) = small.estimate["warnings"]
    assert "fewer than 50" in warning


def test_a_faulty_file_is_refused_at_once(tenant: Tenant) -> None:
    file_id = tenant.upload(b"[]\n")
    with pytest.raises(openai.BadRequestError, match="line 1") as caught:
        tenant.job(training_file=file_id)
    assert (caught.value.param, caught.value.code) == ("training_file", "invalid_training_file")


def test_dry_run_and_estimate_write_nothing_and_say_what_creation_stores(tenant: Tenant) -> None:
    file_id = tenant.upload()
    before = tenant.num_rows(Job, Event)
    request = {
        "model": tenant.base_model,
        "training_file": file_id,
        "hyperparameters": {"n_epochs": 2},
    }
    estimate: Any = tenant.client.post("/fine_tuning/estimates", body=request, cast_to=object)
    preview = jobs_of(tenant).create(**request, extra_query={"dry_run": "true"})
    assert preview.dry_run
    assert preview.queue["position"] == estimate.pop("queue")["position"]
    assert estimate.pop("by_num_gpus") == []
    for name in ("by_device", "cheapest_device", "fastest_device"):
        del estimate[name]
    assert preview.estimate == estimate
    assert preview.cost["projected"] == estimate["cost"]["expected"]
    assert tenant.num_rows(Job, Event) == before
    assert jobs_of(tenant).create(**request).estimate == estimate
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.post(
            "/fine_tuning/estimates",
            body=request | {"training_file": tenant.upload(check=False)},
            cast_to=object,
        )
    assert caught.value.code == "file_not_processed"


def test_a_model_that_no_disk_of_the_storage_holds_is_refused_with_numbers(tenant: Tenant) -> None:
    training_file = tenant.upload()
    largest = {
        "num_hidden_layers": 512,
        "hidden_size": 2**17,
        "intermediate_size": 2**20,
        "num_attention_heads": 1024,
    }
    config = TINY_CONFIG | largest
    with tenant.api.database.transaction() as session:
        session.add(
            Model(
                id=f"{tenant.project_id}/huge", project_id=tenant.project_id, config=config, bytes=1
            )
        )
    before = tenant.num_rows(Job, Event)
    with pytest.raises(
        openai.BadRequestError,
        match=r"about [\d.]+ TB of disk are needed, and the disk of the storage has",
    ) as caught:
        tenant.job(model=f"{tenant.project_id}/huge", training_file=training_file)
    assert (caught.value.param, caught.value.code) == ("model", "job_too_large")
    assert tenant.num_rows(Job, Event) == before
