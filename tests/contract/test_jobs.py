import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from app.catalogue.naming import fine_tuned_model_id
from app.ids import new_id
from app.jobs import claims
from app.jobs.events import Draft
from app.models import Checkpoint, Event, Job, JobStatus
from tests.support.api import Tenant, jsonl

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
    job = tenant.job(suffix="first", metadata={"team": "a"}, seed=7, extra_body={"falqon": {"rank": 16, "learning_rate": 0.001}})
    assert job.object == "fine_tuning.job"
    assert job.id.startswith("ftjob-")
    assert (job.status, job.model, job.organization_id) == ("queued", tenant.base_model, tenant.project_id)
    assert (job.seed, job.metadata, job.integrations, job.result_files) == (7, {"team": "a"}, [], [])
    assert (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens, job.validation_file) == (None,) * 5
    assert job.estimated_finish is None
    assert job.hyperparameters.to_dict() == {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 2.0}
    assert job.method.supervised.hyperparameters.n_epochs == 3
    assert (job.config["rank"], job.config["alpha"], job.config["seed"]) == (16, 16.0, 7)
    assert job.estimate["steps"] == 9
    assert job.cost["accrued"] == "0.0000"
    assert job.cost["projected"] == str(job.estimate["cost"]["expected"])
    assert (job.progress, job.attempts, job.paused_reason) == (None, [], None)
    assert jobs_of(tenant).retrieve(job.id) == job
    assert messages(tenant, job.id)[0] == f"Created fine-tuning job: {job.id}"


def test_official_hyperparameters_in_both_places(tenant: Tenant) -> None:
    numbers = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    for extra in ({"hyperparameters": numbers}, {"method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}}):
        job = tenant.job(**extra)
        assert job.hyperparameters.to_dict() == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
        assert job.config["learning_rate"] == 2.5e-4
    both = {"hyperparameters": numbers, "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}}
    assert tenant.job(**both).hyperparameters.n_epochs == 2


PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "How much?"}]},
    "preferred_output": [{"role": "assistant", "content": "Five."}],
    "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
}
PREFERENCES = (json.dumps(PREFERENCE) + "\n").encode() * 12


def test_a_job_learns_from_preferences(tenant: Tenant) -> None:
    training = tenant.upload(PREFERENCES, check=False)
    numbers = {"n_epochs": 2, "beta": 0.2}
    job = tenant.job(training_file=training, method={"type": "dpo", "dpo": {"hyperparameters": numbers}})
    assert job.method.to_dict() == {
        "type": "dpo",
        "dpo": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto", "beta": 0.2}},
    }
    assert tenant.check(training) == [job.id]
    job = jobs_of(tenant).retrieve(job.id)
    assert (job.config["method"], job.config["beta"]) == ("dpo", 0.2)
    assert job.method.dpo.hyperparameters.to_dict() == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.2}
    assert (job.estimate["num_records"], job.estimate["steps"]) == (12, 6)
    assert tenant.job(training_file=training, extra_body={"falqon": {"method": "dpo"}}).method.dpo.hyperparameters.beta == 0.1


def test_preferences_need_the_method_that_compares(tenant: Tenant) -> None:
    training = tenant.upload(PREFERENCES, check=False)
    job = tenant.job(training_file=training)
    assert tenant.check(training) == []
    job = jobs_of(tenant).retrieve(job.id)
    assert (job.status, job.error.code, job.error.param) == ("failed", "invalid_training_file", "training_file")
    assert "only method dpo learns from" in job.error.message
    with pytest.raises(openai.BadRequestError, match="only method dpo learns from") as caught:
        tenant.job(training_file=training)
    assert (caught.value.param, caught.value.code) == ("training_file", "invalid_training_file")


def test_a_job_waits_for_its_files_and_the_last_check_releases_it(tenant: Tenant) -> None:
    training, validation = tenant.upload(check=False), tenant.upload(check=False)
    job = tenant.job(training_file=training, validation_file=validation, hyperparameters={"batch_size": 2})
    assert job.status == "validating_files"
    assert job.hyperparameters.to_dict() == {"n_epochs": "auto", "batch_size": 2, "learning_rate_multiplier": "auto"}
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


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown model": ({"model": "nobody"}, "model", "model_not_found"),
    "unknown file": ({"training_file": "file-nobody"}, "training_file", "invalid_training_file"),
    "unknown validation file": ({"validation_file": "file-nobody"}, "validation_file", "invalid_validation_file"),
    "long suffix": ({"suffix": "x" * 65}, "suffix", "invalid_value"),
    "suffix with a colon": ({"suffix": "a:b"}, "suffix", "invalid_value"),
    "too many epochs": ({"hyperparameters": {"n_epochs": 51}}, "n_epochs", "invalid_value"),
    "epochs as text": ({"hyperparameters": {"n_epochs": "3"}}, "hyperparameters.n_epochs", "invalid_value"),
    "no epochs": ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "invalid_value"),
    "absurd rate": ({"hyperparameters": {"learning_rate_multiplier": 1e6}}, "learning_rate_multiplier", "invalid_value"),
    "reinforcement": ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method", "invalid_value"),
    "no beta": ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.0}}}}, "method.dpo.hyperparameters.beta", "invalid_value"),
    "dpo of answers that nobody compared": ({"method": {"type": "dpo"}}, "training_file", "invalid_training_file"),
    "two methods": ({"method": {"type": "supervised"}, "extra_body": {"falqon": {"method": "dpo"}}}, "method", "conflict"),
    "unheard-of method": ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
    "integrations": ({"integrations": [{"type": "neptune"}]}, "integrations.0.type", "invalid_value"),
    "metadata not text": ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
    "metadata too long": ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value"),
    "metadata too much": ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
    "negative seed": ({"seed": -1}, "seed", "invalid_value"),
    "unknown field": ({"extra_body": {"rank": 3}}, "rank", "unknown_parameter"),
    "unknown extra": ({"extra_body": {"falqon": {"ranks": 3}}}, "falqon.ranks", "unknown_parameter"),
    "rank as text": ({"extra_body": {"falqon": {"rank": "3"}}}, "falqon.rank", "invalid_value"),
    "rank beyond the model": ({"extra_body": {"falqon": {"rank": 65}}}, "falqon.rank", "invalid_value"),
    "no such layer": ({"extra_body": {"falqon": {"target_modules": ["w1"]}}}, "falqon.target_modules", "invalid_value"),
    "impossible pair": ({"extra_body": {"falqon": {"update_rule": "topk", "alpha": 1}}}, "falqon.alpha", "invalid_value"),
    "early stopping blind": (
        {"extra_body": {"falqon": {"early_stopping_patience": 2}}},
        "falqon.early_stopping_patience",
        "invalid_value",
    ),
    "two epochs": ({"hyperparameters": {"n_epochs": 1}, "extra_body": {"falqon": {"num_epochs": 2}}}, "n_epochs", "conflict"),
    "two seeds": ({"seed": 1, "extra_body": {"falqon": {"seed": 2}}}, "seed", "conflict"),
    "two rates": (
        {"hyperparameters": {"learning_rate_multiplier": 1.0}, "extra_body": {"falqon": {"learning_rate": 0.1}}},
        "learning_rate_multiplier",
        "conflict",
    ),
    "two places": (
        {"hyperparameters": {"n_epochs": 1}, "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}},
        "hyperparameters",
        "conflict",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_written(tenant: Tenant, kind: str) -> None:
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


def test_a_faulty_file_is_refused_at_once(tenant: Tenant) -> None:
    file_id = tenant.upload(b"[]\n")
    with pytest.raises(openai.BadRequestError, match="line 1") as caught:
        tenant.job(training_file=file_id)
    assert (caught.value.param, caught.value.code) == ("training_file", "invalid_training_file")


def test_a_fine_tuned_model_is_no_base(tenant: Tenant) -> None:
    tenant.add_model(f"ft:{tenant.base_model}:x", project_id=tenant.project_id, base=tenant.base_model)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(model=f"ft:{tenant.base_model}:x")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_available")


def test_dry_run_and_estimate_write_nothing_and_say_what_creation_stores(tenant: Tenant) -> None:
    file_id = tenant.upload()
    before = tenant.num_rows(Job, Event)
    request = {"model": tenant.base_model, "training_file": file_id, "hyperparameters": {"n_epochs": 2}}
    estimate: Any = tenant.client.post("/fine_tuning/estimates", body=request, cast_to=object)
    preview = jobs_of(tenant).create(**request, extra_query={"dry_run": "true"})
    assert preview.dry_run
    assert preview.estimate == estimate
    assert preview.cost["projected"] == estimate["cost"]["expected"]
    assert tenant.num_rows(Job, Event) == before
    assert jobs_of(tenant).create(**request).estimate == estimate
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.post("/fine_tuning/estimates", body=request | {"training_file": tenant.upload(check=False)}, cast_to=object)
    assert caught.value.code == "file_not_processed"


def test_cancel_before_anyone_works_on_it_is_immediate_and_idempotent(tenant: Tenant) -> None:
    job = tenant.job()
    for _ in range(2):
        cancelled = jobs_of(tenant).cancel(job.id)
        assert (cancelled.status, cancelled.error) == ("cancelled", None)
        assert cancelled.finished_at is not None
    assert messages(tenant, job.id)[-1:] == ["The job is cancelled"]
    assert messages(tenant, job.id).count("The job is cancelled") == 1


def test_a_running_job_is_asked_to_stop(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    for wish in (jobs_of(tenant).pause, jobs_of(tenant).resume, jobs_of(tenant).cancel, jobs_of(tenant).cancel):
        assert wish(job.id).status == "running"
    with pytest.raises(openai.BadRequestError) as caught:
        jobs_of(tenant).pause(job.id)
    assert caught.value.code == "job_not_pausable"
    with tenant.api.database.transaction() as session:
        assert claims.renew(session, claim, 60) == "cancel"
        claims.finish(session, claim, JobStatus.CANCELLED, Draft("stopped"))
    assert jobs_of(tenant).retrieve(job.id).status == "cancelled"


def test_pause_and_resume_in_the_queue(tenant: Tenant) -> None:
    job = tenant.job()
    paused = jobs_of(tenant).pause(job.id)
    assert (paused.status, paused.paused_reason) == ("paused", "requested")
    resumed = jobs_of(tenant).resume(job.id)
    assert (resumed.status, resumed.paused_reason) == ("queued", None)
    assert tenant.claim(job.id).attempt == 1


def test_pause_while_files_are_checked(tenant: Tenant) -> None:
    file_id = tenant.upload(check=False)
    job = tenant.job(training_file=file_id)
    assert jobs_of(tenant).pause(job.id).status == "paused"
    assert jobs_of(tenant).resume(job.id).status == "validating_files"
    jobs_of(tenant).pause(job.id)
    assert tenant.check(file_id) == []
    assert jobs_of(tenant).resume(job.id).status == "queued"


def test_ended_jobs_stay_as_they_are(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        claims.finish(session, claim, JobStatus.SUCCEEDED, Draft("done"), fine_tuned_model_id="ft:x", trained_tokens=99)
    done = jobs_of(tenant).retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", "ft:x", 99)
    codes = {
        jobs_of(tenant).cancel: "job_already_ended",
        jobs_of(tenant).pause: "job_not_pausable",
        jobs_of(tenant).resume: "job_not_paused",
    }
    for call, code in codes.items():
        with pytest.raises(openai.BadRequestError) as caught:
            call(job.id)
        assert caught.value.code == code
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert jobs_of(tenant).retrieve(job.id) == done


def test_progress_cost_and_attempts_of_a_running_job(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        claims.record(session, claim, [], progress=PROGRESS | {"cost": COST})
    running = jobs_of(tenant).retrieve(job.id)
    assert running.progress == PROGRESS
    assert running.cost == COST
    assert 50 <= running.estimated_finish - running.attempts[0]["started_at"] <= 90
    assert (running.attempts[0]["number"], running.attempts[0]["device"], running.attempts[0]["outcome"]) == (1, "cpu", None)


def test_lists_are_newest_first_filtered_and_end(tenant: Tenant, stranger: Tenant) -> None:
    file_id = tenant.upload()
    stranger.job()
    ids = [tenant.job(training_file=file_id, metadata={"n": str(n), 'a "b"': "x"} if n else None).id for n in range(4)][::-1]
    assert [job.id for job in jobs_of(tenant).list(limit=2)] == ids
    assert [job.id for job in jobs_of(tenant).list(metadata={"n": "2"})] == [ids[1]]
    assert [job.id for job in jobs_of(tenant).list(extra_query={"metadata": "null"})] == [ids[3]]
    jobs_of(tenant).cancel(ids[0])
    assert [job.id for job in jobs_of(tenant).list(extra_query={"status": "cancelled"})] == ids[:1]
    assert [job.id for job in jobs_of(tenant).list(extra_query={"model": stranger.base_model})] == []
    page = tenant.http.get("/v1/fine_tuning/jobs?limit=1").json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[0], ids[0], True)
    for query in ("limit=0", "status=odd", "metadata=x", "metadata=null&metadata[a]=b"):
        answer = tenant.http.get(f"/v1/fine_tuning/jobs?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_events_page_back_to_the_first(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    metrics = {"step": 1, "train_loss": 2.5}
    with tenant.api.database.transaction() as session:
        claims.record(session, claim, [Draft("Step 1/9: training loss=2.50", type="metrics", data=metrics)])
    events = list(jobs_of(tenant).list_events(job.id, limit=2))
    bare = job.id.removeprefix("ftjob-")
    assert [event.id for event in events] == [f"ftevent-{bare}-{seq}" for seq in range(len(events), 0, -1)]
    assert (events[0].object, events[0].type, events[0].level, events[0].data) == ("fine_tuning.job.event", "metrics", "info", metrics)
    for cursor in ("ftevent-x-1", f"ftevent-{bare}-x", "1"):
        with pytest.raises(openai.BadRequestError) as caught:
            jobs_of(tenant).list_events(job.id, after=cursor)
        assert (caught.value.param, caught.value.code) == ("after", "invalid_cursor")


def test_checkpoints_carry_the_name_the_model_will_have(tenant: Tenant) -> None:
    job = tenant.job(suffix="mine")
    with tenant.api.database.transaction() as session:
        where = {"job_id": job.id, "attempt": 1, "storage_prefix": "p", "manifest_sha256": "0", "bytes": 1}
        session.add_all(Checkpoint(id=new_id("ftckpt_"), step=step, metrics={"train_loss": 0.5}, **where) for step in (1, 2, 3))
        row = session.get_one(Job, job.id)
    name = fine_tuned_model_id(row, "acme")
    assert name == f"ft:{tenant.base_model}:acme:mine:{job.id[-8:]}"
    found = list(jobs_of(tenant).checkpoints.list(job.id, limit=2))
    assert [checkpoint.step_number for checkpoint in found] == [3, 2, 1]
    assert found[0].object == "fine_tuning.job.checkpoint"
    assert found[0].fine_tuned_model_checkpoint == f"{name}:ckpt-step-3"
    assert (found[0].fine_tuning_job_id, found[0].metrics.step, found[0].metrics.train_loss) == (job.id, 3, 0.5)


def test_jobs_of_others_are_not_there(tenant: Tenant, stranger: Tenant) -> None:
    job_id = tenant.job().id
    calls = jobs_of(stranger)
    for call in (calls.retrieve, calls.cancel, calls.pause, calls.resume, calls.list_events, calls.checkpoints.list):
        with pytest.raises(openai.NotFoundError) as foreign:
            call(job_id)
        with pytest.raises(openai.NotFoundError) as missing:
            call("ftjob-nobody")
        assert (foreign.value.code, foreign.value.param) == (missing.value.code, missing.value.param)
    with pytest.raises(openai.BadRequestError) as caught:
        stranger.job(training_file=tenant.upload(jsonl(3)))
    assert caught.value.code == "invalid_training_file"


def test_checks_that_end_at_once_release_each_job_once(tenant: Tenant) -> None:
    pairs = [(tenant.upload(check=False), tenant.upload(check=False)) for _ in range(8)]
    jobs = [tenant.job(training_file=training, validation_file=validation).id for training, validation in pairs]
    with ThreadPoolExecutor(2) as pool:
        released = [job_id for pair in pairs for ids in pool.map(tenant.check, pair) for job_id in ids]
    assert released == jobs
    assert {job.status for job in jobs_of(tenant).list()} == {"queued"}


def test_a_job_asked_for_while_its_file_is_checked_is_not_forgotten(tenant: Tenant) -> None:
    files = [tenant.upload(check=False) for _ in range(8)]
    with ThreadPoolExecutor(2) as pool:
        for file_id in files:
            checked, created = pool.submit(tenant.check, file_id), pool.submit(lambda id_: tenant.job(training_file=id_).id, file_id)
            checked.result(), created.result()
    assert {job.status for job in jobs_of(tenant).list()} == {"queued"}
