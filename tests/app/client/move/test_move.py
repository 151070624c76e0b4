import json
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from app.client.move import carrying
from app.client.move.account import Account
from app.client.move.plan import proposed_bases
from app.models import File, Job
from falqon_core.estimate.published import PUBLISHED_MODELS
from tests.app.client.move.conftest import BASE, MAX_FILE_BYTES, Move
from tests.support.api import Tenant, jsonl
from tests.support.openai_account import KEY, OpenAiAccount, Refusal, a_checkpoint, an_error

FORBIDDEN = Refusal(
    400,
    an_error(
        "To help mitigate abuse, downloading of fine-tune training files is disabled for free "
        "accounts.",
        "invalid_request_error",
    ),
)
TOO_FAST = Refusal(
    429,
    an_error("Rate limit reached.", "requests", "rate_limit_exceeded"),
    retry_after_ms="20",
    retry_after="1",
)
NO_QUOTA = Refusal(
    429, an_error("You exceeded your current quota.", "insufficient_quota", "insufficient_quota")
)
LEFT_OPEN = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


def row(output: str, start: str) -> str:
    """Return the last line that begins so, which is the row of a table."""
    return next(line for line in reversed(output.splitlines()) if line.startswith(start))


def jobs_here(tenant: Tenant) -> dict[str, Any]:
    """Return the project's jobs by the id that they had there."""
    jobs = tenant.client.fine_tuning.jobs.list(limit=100).data
    return {(job.metadata or {})["moved_from"]: job for job in jobs}


def requested(tenant: Tenant, job_id: str) -> dict[str, Any]:
    with tenant.api.database.read() as session:
        job = session.get_one(Job, job_id)
    return job.requested.model_dump(mode="json", exclude_unset=True)


def test_a_plan_says_what_all_takes_and_writes_nothing(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    job = account.add_job(account.add_file(jsonl()))
    account.checkpoints[job["id"]] = [a_checkpoint(job, step) for step in (12, 24, 36)]
    plan = move()
    assert plan.exit_code == 0, plan.stderr
    assert "to copy" in row(plan.stdout, job["training_file"])
    assert row(plan.stdout, job["id"]).split("\t")[:5] == [
        job["id"],
        "to submit",
        "gpt-4o-mini-2024-07-18",
        BASE,
        "supervised",
    ]
    assert row(plan.stdout, job["fine_tuned_model"]).split()[1:] == ["3", "not", "yet"]
    assert "one job after the other" in row(plan.stdout, "time")
    assert row(plan.stdout, "cost").split()[1:2] == ["<"]
    assert "Nothing is moved yet; --yes does it." in plan.stdout

    document = json.loads(move("--json").stdout)
    low, expected, high = (
        document["estimate"]["seconds"][name] for name in ("low", "expected", "high")
    )
    assert 0 < low < expected < high
    estimate = tenant.http.post(
        "/v1/fine_tuning/estimates",
        json={
            "model": BASE,
            "training_data": {"num_records": 12, "num_tokens": 1200},
        },
    ).json()
    assert expected == estimate["seconds"]["expected"], "of what the account says of the job"
    assert estimate["steps"] == 30
    assert tenant.client.files.list().data == []
    assert tenant.client.fine_tuning.jobs.list().data == []
    assert not any(path.endswith("/content") for path in account.requests)


def test_a_job_with_a_validation_file_is_estimated_to_train_on_all_of_the_other(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    training, validation = account.add_file(jsonl(60)), account.add_file(jsonl(7))
    job = account.add_job(training, validation_file=validation)
    account.checkpoints[job["id"]] = [a_checkpoint(job, 180)]

    def expected(**body: Any) -> float:
        document = tenant.http.post("/v1/fine_tuning/estimates", json={"model": BASE} | body)
        return float(document.json()["seconds"]["expected"])

    def planned() -> float:
        return float(json.loads(move("--json").stdout)["estimate"]["seconds"]["expected"])

    size = {"num_records": 60, "num_tokens": 1200}
    assert planned() == expected(training_data=size, validation_file="file-to-come")
    assert planned() != expected(training_data=size), "some are held out"
    assert move("--yes").exit_code == 0
    here = jobs_here(tenant)[job["id"]]
    files = {"training_file": here.training_file, "validation_file": here.validation_file}
    for file_id in files.values():
        tenant.check(file_id)
    account.add_job(training, validation_file=validation)
    assert planned() == expected(**files)


def test_moved_files_and_jobs_keep_their_bytes_and_requests(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    training, validation = (
        account.add_file(jsonl(7)),
        account.add_file(jsonl(3), filename="v.jsonl"),
    )
    older = account.add_job(
        training,
        validation_file=validation,
        method=None,
        hyperparameters={"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": None},
        fine_tuned_model="ft:gpt-4o-mini-2024-07-18:acme:my-suffix:AbC123",
        metadata={"team": "red"},
        seed=7,
    )
    newer = account.add_job(
        training,
        method={"type": "supervised", "supervised": {"hyperparameters": LEFT_OPEN}},
        user_provided_suffix="Our Desk",
    )
    preferences = account.add_file(_preferences())
    dpo = account.add_job(
        preferences,
        hyperparameters={"n_epochs": 1},
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}},
    )
    done = move("--yes")
    assert done.exit_code == 0, done.stderr + done.stdout

    with tenant.api.database.read() as session:
        files = session.scalars(select(File).where(File.project_id == tenant.project_id)).all()
    here = {file.idempotency_key.removeprefix("move:openai:"): file for file in files}
    assert here.keys() == account.contents.keys()
    for file_id, content in account.contents.items():
        assert tenant.client.files.content(here[file_id].id).content == content
        assert here[file_id].sha256 in row(done.stdout, file_id)
    assert here[validation].filename == "v.jsonl"

    jobs = jobs_here(tenant)
    assert requested(tenant, jobs[older["id"]].id) == {
        "model": BASE,
        "training_file": here[training].id,
        "validation_file": here[validation].id,
        "suffix": "my-suffix",
        "seed": 7,
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"batch_size": None}},
        },
        "metadata": {"team": "red", "moved_from": older["id"]},
    }
    assert jobs[newer["id"]].hyperparameters.n_epochs == "auto"
    assert jobs[newer["id"]].suffix == "Our-Desk"
    assert jobs[newer["id"]].seed == newer["seed"]
    assert requested(tenant, jobs[dpo["id"]].id)["method"] == {
        "type": "dpo",
        "dpo": {"hyperparameters": {"beta": 0.2}},
    }
    created = sorted(jobs.values(), key=lambda job: job.id)
    assert [job.metadata["moved_from"] for job in created] == [
        older["id"],
        newer["id"],
        dpo["id"],
    ], "in the order in which they were trained there"


def test_what_was_chosen_for_the_model_there_is_chosen_again_here_unless_it_is_kept(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    chosen_again = account.add_job(account.add_file(jsonl()))
    done = move("--yes")
    assert done.exit_code == 0, done.stderr
    assert "n_epochs 3, batch_size 1" in done.stdout.replace("\n", " ")
    kept = account.add_job(account.add_file(jsonl(5)))
    assert move("--yes", "--keep-hyperparameters").exit_code == 0

    jobs = jobs_here(tenant)
    settings = [
        requested(tenant, jobs[job["id"]].id)["method"]["supervised"]["hyperparameters"]
        for job in (chosen_again, kept)
    ]
    assert settings == [
        {},
        {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
    ]


def test_a_repeated_move_copies_and_submits_nothing(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    file, full = account.add_file(jsonl()), {f"k{n}": "v" for n in range(16)}
    job, twin = (account.add_job(file, metadata=full) for _ in range(2))
    other = account.add_job(account.add_file(jsonl(2)))
    assert move("--yes").exit_code == 0
    rows = tenant.num_rows(File, Job)
    downloads = account.requests[f"/files/{job['training_file']}/content"]

    again = move("--yes")
    assert again.exit_code == 0, again.stderr
    assert tenant.num_rows(File, Job) == rows, "also a job whose metadata has no room for an origin"
    assert "is submitted" not in again.stdout
    cells = {cell for each in (job, twin) for cell in row(again.stdout, each["id"]).split()}
    ids = {cell for cell in cells if cell.startswith("ftjob-")} - {job["id"], twin["id"]}
    assert len(ids) == 2, "one here for each, though they are alike"
    assert "to submit" not in row(move().stdout, job["id"])
    assert account.requests[f"/files/{job['training_file']}/content"] == downloads == 1
    assert jobs_here_id(tenant, other["id"]) in row(again.stdout, other["id"])
    with tenant.api.database.read() as session:
        hashes = session.scalars(select(File.sha256).where(File.project_id == tenant.project_id))
        assert all(sha256 in again.stdout for sha256 in hashes)


def jobs_here_id(tenant: Tenant, origin: str) -> str:
    page = tenant.client.fine_tuning.jobs.list(metadata={"moved_from": origin})
    return page.data[0].id


def test_an_object_that_cannot_be_moved_is_reported_by_its_id(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    file = account.add_file(jsonl())
    forbidden = account.add_file(jsonl(3))
    bad = account.add_file(b'{"messages": []}\n')
    account.refuse(f"/files/{forbidden}/content", FORBIDDEN)
    jobs = {
        "good": account.add_job(file),
        "of a file that may not be downloaded": account.add_job(forbidden),
        "deleted": account.add_job("file-gone", validation_file=file),
        "reinforcement": account.add_job(
            file, method={"type": "reinforcement", "reinforcement": {"grader": {}}}
        ),
        "no model here": account.add_job(file, model="gpt-4.1-2025-04-14"),
        "still running": account.add_job(file, status="running", fine_tuned_model=None),
        "failed": account.add_job(
            file,
            status="failed",
            fine_tuned_model=None,
            error={"code": "invalid_training_file", "message": "…", "param": None},
        ),
        "impossible beta": account.add_job(
            account.add_file(_preferences()), hyperparameters=None, method=_beta(-1.0)
        ),
    }
    done = move("--yes")
    assert done.exit_code == 1
    states = {
        "good": "validating_files",
        "of a file that may not be downloaded": "downloading of fine-tune training files is",
        "deleted": "its file file-gone: it has been deleted there",
        "reinforcement": "method reinforcement is not supported; supervised and dpo are",
        "no model here": "no model here stands for 'gpt-4.1-2025-04-14'; "
        "`falqon aliases set gpt-4.1-2025-04-14 MODEL` names one, such as Qwen3-14B or "
        "Qwen3-32B or gpt-oss-20b; `falqon models fit` says",
        "still running": "it is running there; run this again when it has ended",
        "failed": "failed there; stays",
        "impossible beta": "beta",
    }
    for name, job in jobs.items():
        assert states[name] in row(done.stdout, job["id"]), name
    assert "disabled for free accounts" in row(done.stdout, forbidden)
    assert "deleted there" in row(done.stdout, "file-gone")
    assert "8 objects are not" in done.stderr
    assert jobs_here(tenant).keys() == {jobs["good"]["id"]}

    for id_ in (here.id for here in tenant.client.files.list().data):
        tenant.check(id_)
    again = move("--yes")
    assert "is not valid here: line 1" in row(again.stdout, bad)
    assert account.requests[f"/files/{forbidden}/content"] == 2, "it is tried again"
    assert jobs["of a file that may not be downloaded"]["id"] in jobs_here(tenant)


def test_a_job_that_continues_another_waits_for_the_moved_base(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    file = account.add_file(jsonl())
    first = account.add_job(file)
    second = account.add_job(file, model=first["fine_tuned_model"])
    waiting = move("--yes")
    assert waiting.exit_code == 1
    assert f"it continues {first['id']}" in row(waiting.stdout, second["id"])

    job_id = jobs_here_id(tenant, first["id"])
    tenant.check(tenant.client.fine_tuning.jobs.retrieve(job_id).training_file)
    model = f"ft:{BASE}:acme::{job_id[-8:]}"
    tenant.add_model(model, project_id=tenant.project_id, base=BASE)
    with tenant.api.database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.status, job.fine_tuned_model_id = "succeeded", model
    done = move("--yes")
    assert done.exit_code == 0, done.stdout
    assert jobs_here(tenant)[second["id"]].model == model
    assert row(done.stdout, first["fine_tuned_model"]).split()[-1] == model


def test_a_large_file_goes_up_in_parts_and_once(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    content = jsonl(MAX_FILE_BYTES // 50)
    assert len(content) > MAX_FILE_BYTES
    account.add_file(content)
    assert move("--yes").exit_code == 0
    assert move("--yes").exit_code == 0
    (file,) = tenant.client.files.list().data
    assert tenant.client.files.content(file.id).content == content


def test_rate_limits_are_waited_for_and_a_used_up_quota_is_told(
    account: OpenAiAccount, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Account, "repeat_after_seconds", (0.01, 0.01, 0.01))
    patient, broke = account.add_file(jsonl()), account.add_file(jsonl(2))
    account.refuse("/fine_tuning/jobs", TOO_FAST, TOO_FAST)
    account.refuse(f"/files/{patient}/content", TOO_FAST, Refusal(503, an_error("Busy", "server")))
    account.refuse(f"/files/{broke}/content", NO_QUOTA)
    done = move("--yes")
    assert done.exit_code == 1
    assert "uploaded" in row(done.stdout, patient)
    assert "You exceeded your current quota." in row(done.stdout, broke)
    assert account.requests[f"/files/{patient}/content"] == 3
    assert account.requests[f"/files/{broke}/content"] == 1


def test_a_file_whose_size_is_wrong_is_not_moved(
    account: OpenAiAccount, tenant: Tenant, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Account, "repeat_after_seconds", (0.01,))
    longer, shorter = (account.add_file(jsonl(), bytes=len(jsonl()) + n) for n in (-1, 1))
    done = move("--yes")
    assert done.exit_code == 1
    assert "It has more than the" in row(done.stdout, longer)
    assert "bytes before its time" in row(done.stdout, shorter)
    assert account.requests[f"/files/{shorter}/content"] == 2
    assert tenant.client.files.list().data == []


def test_a_full_disk_is_told_with_the_file(
    account: OpenAiAccount, tenant: Tenant, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = account.add_file(jsonl())
    monkeypatch.setattr(carrying, "TemporaryFile", partial(open, "/dev/full", "r+b", 0))
    done = move("--yes")
    assert done.exit_code == 1
    assert "this machine cannot keep it meanwhile" in row(done.stdout, file)
    assert tenant.client.files.list().data == []


def test_the_account_s_key_stays_between_us_and_the_account(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    account.add_job(account.add_file(jsonl()))
    outputs = [move("--yes"), move("--json"), move(OPENAI_API_KEY=f"{KEY}-wrong")]
    refused = outputs[-1]
    assert refused.exit_code == 4
    assert "Incorrect API key provided: sk-…" in refused.stderr
    assert "OPENAI_API_KEY" in refused.stderr
    for done in outputs:
        assert KEY not in done.output + done.stderr
    (job,) = tenant.client.fine_tuning.jobs.list().data
    assert KEY not in json.dumps(requested(tenant, job.id))


def test_impossible_options_of_move_are_refused_before_any_request(
    account: OpenAiAccount, tenant: Tenant, move: Move
) -> None:
    no_key = move(OPENAI_API_KEY="")
    assert (no_key.exit_code, "OPENAI_API_KEY is not set." in no_key.stderr) == (2, True)
    itself = move("--from-url", f"{tenant.api.url}/v1")
    assert (itself.exit_code, "is the service itself" in itself.stderr) == (2, True)
    assert move("--model", "ft:x").exit_code == 2
    assert not account.requests


def test_an_answer_that_differs_from_openais_description_is_reported(
    account: OpenAiAccount, move: Move
) -> None:
    job = account.add_job(account.add_file(jsonl()))
    del job["training_file"]
    done = move()
    assert done.exit_code == 1
    assert f"{job['id']} there is not as OpenAI describes it: training_file" in done.stderr


def _beta(beta: float) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": {"beta": beta}}}


def _preferences() -> bytes:
    record = {
        "input": {"messages": [{"role": "user", "content": "two and two?"}]},
        "preferred_output": [{"role": "assistant", "content": "four"}],
        "non_preferred_output": [{"role": "assistant", "content": "five"}],
    }
    return json.dumps(record).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("gpt-4o-mini-2024-07-18", 4e9, 9e9), ("gpt-4o-2024-08-06", 14e9, 33e9)],
)
def test_proposed_bases_are_rows_of_the_table_and_of_that_size(
    name: str, low: float, high: float
) -> None:
    for base in proposed_bases(name):
        assert low <= PUBLISHED_MODELS[base].num_parameters <= high, base
