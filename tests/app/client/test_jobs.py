import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from app.client.jobs.compare import comparison
from tests.app.client.conftest import Falqon, facts, newest_file
from tests.support.service import Service
from tests.support.waiting import wait_for

SLOW = {"steps": 2000, "step_seconds": 0.02}
Submitted = Callable[..., str]


def newest_job(service: Service) -> str | None:
    return next((job.id for job in service.client.fine_tuning.jobs.list(limit=1)), None)


def test_create_shows_the_estimate_and_asks(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    create = (
        "jobs",
        "create",
        "--model",
        "falqon-tiny",
        "--file",
        str(fake_file()),
        "--suffix",
        "asked",
        "--epochs",
        "2",
        "--seed",
        "3",
    )
    create += (
        "--batch-size",
        "4",
        "--learning-rate",
        "0.001",
        "--set",
        "rank=8",
        "--set",
        "lr_schedule=linear",
        "--metadata",
        "team=red",
    )
    create += ("--priority", "3", "--max-cost-usd", "5.50", "--max-seconds", "3600")
    before = newest_job(service)
    for answer in ("n\n", ""):  # the second is a script that nobody told of --yes
        refused = falqon(*create, input=answer)
        assert refused.exit_code == 1
        assert "Nothing was submitted" in refused.stderr
    assert newest_job(service) == before

    confirmed = falqon(*create, input="y\n")
    assert confirmed.exit_code == 0, confirmed.stderr
    for word in (
        "tokens",
        "steps",
        "time",
        "cost",
        "memory",
        "place in the queue",
        "known from",
        "Submit this job?",
    ):
        assert word in confirmed.stdout
    job_id = confirmed.stdout.splitlines()[-1].rpartition(" ")[2]
    assert job_id == newest_job(service)
    wait_for(
        lambda: json.loads(falqon("jobs", "show", job_id, "--json").stdout)["config"],
        what="its files are checked",
    )
    job = json.loads(falqon("jobs", "show", job_id, "--json").stdout)
    config = {
        "rank": 8,
        "num_epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.001,
        "lr_schedule": "linear",
        "seed": 3,
    }
    assert config.items() <= job["config"].items()
    assert (job["suffix"], job["metadata"], job["priority"]) == ("asked", {"team": "red"}, 3)
    assert job["budget"] == {"max_cost_usd": "5.50", "max_seconds": 3600}
    assert "max_cost_usd 5.50, max_seconds 3600" in falqon("jobs", "show", job_id).stdout
    assert job_id in falqon("jobs", "list", "--metadata", "team=red").stdout
    assert falqon("jobs", "list", "--metadata", "team=blue").stdout.startswith(
        "There are no such jobs"
    )


def test_the_learning_rate_that_is_shown_is_the_one_of_the_job(
    falqon: Falqon, fake_file: Callable[..., Path]
) -> None:
    create = ("jobs", "create", "--model", "falqon-tiny", "--file", str(fake_file()), "--yes")
    automatic, own = falqon(*create), falqon(*create, "--learning-rate", "0.003")
    assert facts(automatic.stdout)["learning rate"].startswith("0.0005 (automatic, ")
    assert facts(own.stdout)["learning rate"] == "0.003"
    job_id = own.stdout.splitlines()[-1].rpartition(" ")[2]
    cloned = falqon("jobs", "clone", job_id, "--set", "learning_rate=0.004")
    assert facts(cloned.stdout)["learning rate"] == "0.004"


def test_an_id_of_a_file_is_not_uploaded_again(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    file_id = json.loads(falqon("files", "upload", str(fake_file()), "--json").stdout)["id"]
    done = falqon(
        "jobs",
        "create",
        "--model",
        "falqon-tiny",
        "--file",
        file_id,
        "--validation-file",
        file_id,
        "--yes",
        "--json",
    )
    job = json.loads(done.stdout)
    assert (job["training_file"], job["validation_file"]) == (file_id, file_id)
    model = ("--model", "falqon-tiny")
    short = falqon("jobs", "create", *model, "--file", file_id[-8:], "--yes", "--json")
    assert json.loads(short.stdout)["training_file"] == file_id
    fake_file().rename("file-train.jsonl")
    taken_for_an_id = falqon("jobs", "create", *model, "--file", "file-train.jsonl")
    assert taken_for_an_id.exit_code == 3
    assert "the file here is ./file-train.jsonl" in taken_for_an_id.stderr
    unknown = falqon("jobs", "create", *model, "--file", file_id, "--set", "rnk=8")
    assert "--set rnk: there is no such field.\nDid you mean rank?" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--model", "nobody/knows", "--file", "{fake}"], 1, "param model"),
        (
            ["--model", "falqon-tiny", "--file", "{fake}", "--set", "rnk=8"],
            1,
            "--set rnk: there is no such field.\nDid you mean rank?",
        ),
        (["--model", "falqon-tiny", "--file", "{fake}", "--set", "rank=0"], 1, "falqon.rank"),
        (["--model", "falqon-tiny", "--file", "{fake}", "--set", "rank"], 2, "is not key=value"),
        (
            ["--model", "falqon-tiny", "--file", "{fake}", "--set", "a.b=1", "--set", "a=2"],
            2,
            "given twice",
        ),
        (
            [
                "--model",
                "falqon-tiny",
                "--file",
                "{fake}",
                "--epochs",
                "2",
                "--set",
                "num_epochs=3",
            ],
            2,
            "given twice",
        ),
        (
            ["--model", "falqon-tiny", "--file", "{fake}", "--metadata=a=1", "--metadata=a=2"],
            2,
            "--metadata a: it is given twice",
        ),
        (["--model", "falqon-tiny", "--file", "{fake}", "--epochs", "many"], 2, "--epochs"),
        (["--model", "falqon-tiny", "--file", "file-unknown"], 3, "file-unknown"),
        (
            ["--model", "falqon-tiny", "--file", "nowhere.jsonl"],
            2,
            "nowhere.jsonl is neither a file here nor an id",
        ),
        (["--file", "{fake}"], 2, "--model"),
        (["--model", "tiny\udcff", "--file", "{fake}"], 2, "no UTF-8 text"),
        *(
            (["--model", "falqon-tiny", "--file", "{fake}", *rate], 2, "is not finite")
            for rate in (["--learning-rate", "inf"], ["--set", "learning_rate=1e999"])
        ),
    ],
)
def test_an_impossible_job_is_refused_with_the_reason(
    falqon: Falqon,
    service: Service,
    fake_file: Callable[..., Path],
    arguments: list[str],
    code: int,
    reason: str,
) -> None:
    path = str(fake_file())
    before = newest_file(service)
    done = falqon(
        "jobs", "create", "--yes", *(argument.format(fake=path) for argument in arguments)
    )
    assert done.exit_code == code, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert newest_file(service) == before, "nothing was uploaded"


def test_settings_are_listed_as_the_service_describes_them(falqon: Falqon) -> None:
    head, *rows = falqon("jobs", "fields").stdout.splitlines()
    assert head.split("\t") == ["field", "values", "default", "meaning"]
    fields = {row.split("\t")[0]: row.split("\t")[1:3] for row in rows}
    assert fields["rank"] == ["integer from 1 to 1024", "64"]
    assert fields["learning_rate"] == ["number above 0 to 1", "auto"]
    assert fields["lr_schedule"] == ["constant, linear, cosine", "cosine"]
    assert fields["num_gpus"][0] == "integer from 1 to 64, or auto"
    assert fields["budget.max_seconds"][0].startswith("integer from 1")
    assert len(falqon("jobs", "fields", "rank", "packing").stdout.splitlines()) == 3
    unknown = falqon("jobs", "fields", "learning_rat")
    assert unknown.exit_code == 3
    assert "Did you mean learning_rate?" in unknown.stderr


def test_jobs_are_compared_by_their_losses_as_served() -> None:
    progress = {"valid_loss": 1.0, "valid_loss_fp8_weights": 1.5, "valid_loss_as_served": 1.25}
    job = {"status": "succeeded", "execution_seconds": 60.0, "progress": progress}
    rows = {name: values for name, *values in comparison([job, job | {"progress": None}])}
    assert rows["validation loss"] == ["1.0000", ""]
    assert rows["with FP8 weights"] == ["1.5000", ""]
    assert rows["as it is served"] == ["1.2500", ""]


def test_jobs_stand_beside_each_other(falqon: Falqon, submitted: Submitted) -> None:
    ids = [
        submitted("--suffix", suffix, "--set", f"rank={rank}", steps=20, best_at=10)
        for suffix, rank in (("small", 8), ("large", 16))
    ]
    for job_id in ids:
        assert falqon("jobs", "watch", job_id).exit_code == 0
    compared = falqon("jobs", "compare", *ids).stdout
    assert facts(compared)["1"] == f"{ids[0]}  small"
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in compared.splitlines()}
    assert rows["status"] == ["succeeded", "succeeded"]
    assert rows["rank"] == ["8", "16"]
    assert rows["best validation loss"] == ["0.0000 at step 10"] * 2
    assert rows["validation loss"] == ["0.2500"] * 2
    assert rows["training loss"] == ["0.0500", "0.0500"]
    assert "num_epochs" not in rows, "it is the same"
    assert falqon("jobs", "compare", ids[0]).exit_code == 2
    answer = json.loads(falqon("jobs", "compare", *ids, "--json").stdout)
    assert [job["id"] for job in answer["data"]] == ids


def test_a_title_and_a_note(falqon: Falqon, service: Service, submitted: Submitted) -> None:
    job_id = submitted(**SLOW)
    saved = falqon("jobs", "edit", job_id, "--title", "Tone of voice", "--note", "Too formal.")
    assert (saved.exit_code, saved.stdout) == (0, f"{job_id} is saved.\n")
    shown = falqon("jobs", "show", job_id).stdout
    assert "title=Tone of voice, note=Too formal." in shown
    assert falqon("jobs", "edit", job_id, "--note", "").exit_code == 0
    assert "note=" not in falqon("jobs", "show", job_id).stdout
    nothing = falqon("jobs", "edit", job_id)
    assert (nothing.exit_code, "Nothing is changed" in nothing.stderr) == (2, True)
    service.client.fine_tuning.jobs.cancel(job_id)


def test_pause_resume_and_cancel(falqon: Falqon, service: Service, submitted: Submitted) -> None:
    job_id = submitted(**SLOW)

    def status() -> str:
        return str(json.loads(falqon("jobs", "show", job_id, "--json").stdout)["status"])

    wait_for(lambda: "step" in falqon("jobs", "show", job_id).stdout, what="its first steps")
    paused = falqon("jobs", "pause", job_id)
    assert paused.stdout == f"{job_id} is running; its worker writes a checkpoint and stops.\n"
    wait_for(lambda: status() == "paused", seconds=60, what="it pauses")
    assert "paused (requested)" in falqon("jobs", "show", job_id).stdout
    (checkpoint, *_) = json.loads(falqon("jobs", "checkpoints", job_id, "--json").stdout)["data"]
    assert checkpoint["id"] in falqon("jobs", "checkpoints", job_id).stdout
    assert json.loads(falqon("jobs", "resume", job_id, "--json").stdout)["status"] == "queued"
    wait_for(lambda: status() == "running", seconds=60, what="it continues")
    assert falqon("jobs", "cancel", job_id).exit_code == 0
    wait_for(lambda: status() == "cancelled", seconds=60, what="it ends")
    assert job_id in falqon("jobs", "list", "--status", "cancelled").stdout
    assert job_id not in falqon("jobs", "list", "--status", "running").stdout
    assert "Cancellation requested" in falqon("jobs", "events", job_id, "--limit", "100").stdout

    again = falqon("jobs", "resume", job_id)
    assert again.exit_code == 1
    assert "only a paused job can be resumed" in again.stderr
    assert "code job_not_paused" in again.stderr


def test_a_job_waits_at_its_budget_until_that_is_raised(
    falqon: Falqon, service: Service, submitted: Submitted
) -> None:
    job_id = submitted("--max-seconds", "1", steps=60, step_seconds=0.05)
    wait_for(
        lambda: "paused (budget" in falqon("jobs", "show", job_id).stdout,
        seconds=60,
        what="it has used its budget",
    )
    too_little = falqon("jobs", "resume", job_id)
    assert too_little.exit_code == 1
    assert "max_seconds 1 is used up" in too_little.stderr
    assert "code budget_exhausted" in too_little.stderr
    resumed = json.loads(
        falqon(
            "jobs", "resume", job_id, "--max-seconds", "600", "--max-cost-usd", "9", "--json"
        ).stdout
    )
    assert (resumed["status"], resumed["budget"]) == (
        "queued",
        {"max_cost_usd": "9", "max_seconds": 600},
    )
    assert falqon("jobs", "watch", job_id).exit_code == 0


def test_a_clone_of_what_the_openai_client_submitted(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    file_id = json.loads(falqon("files", "upload", str(fake_file()), "--wait", "--json").stdout)[
        "id"
    ]
    hyperparameters = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 2.0}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    job = service.client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=file_id,
        seed=5,
        method=method,
        metadata={"team": "a"},  # type: ignore[arg-type]
    )
    overrides = (
        "--epochs",
        "2",
        "--learning-rate",
        "0.25",
        "--seed",
        "6",
        "--metadata",
        "try=2",
        "--validation-file",
        file_id,
    )
    done = falqon("jobs", "clone", job.id, *overrides, "--priority", "-1", "--json")
    assert done.exit_code == 0, done.stderr
    copy = json.loads(done.stdout)
    config = {"num_epochs": 2, "batch_size": 4, "learning_rate": 0.25, "seed": 6}
    assert config.items() <= copy["config"].items()
    assert (copy["metadata"], copy["validation_file"], copy["priority"]) == (
        {"team": "a", "try": "2"},
        file_id,
        -1,
    )
    third = json.loads(
        falqon(
            "jobs", "clone", copy["id"], "--batch-size", "2", "--suffix", "third", "--json"
        ).stdout
    )
    assert third["config"] == copy["config"] | {"batch_size": 2}
    human = falqon("jobs", "clone", job.id, "--set", "seed=9")
    assert human.stdout.splitlines()[-1].startswith("Follow it with: falqon jobs watch ftjob-")
    assert "known from" in human.stdout
    refused = falqon("jobs", "clone", job.id, "--set", "ranks=9", "--file", str(fake_file()))
    assert "Did you mean rank?" in refused.stderr
    assert service.client.files.list(limit=1, purpose="fine-tune").data[0].id == file_id


def test_log_events_and_metrics_of_a_job_are_kept_until_it_is_deleted(
    falqon: Falqon, submitted: Submitted
) -> None:
    job_id = submitted("--suffix", "left", steps=20)
    early = falqon("jobs", "delete", job_id)
    assert early.exit_code == 1
    assert "code job_not_ended" in early.stderr
    assert falqon("jobs", "watch", job_id).exit_code == 0

    header, *rows = falqon("jobs", "metrics", job_id).stdout.splitlines()
    assert header.split() == ["series", "curve", "first", "last", "lowest", "highest"]
    (loss,) = [row.split() for row in rows if row.startswith("train_loss\t")]
    assert (len(loss[1]), loss[1][0], loss[1][-1], loss[2:]) == (
        20,
        "█",
        "▁",
        ["1", "0.05", "0.05", "1"],
    )
    assert (
        len(
            falqon("jobs", "metrics", job_id, "--keys", "valid_loss,train_loss").stdout.splitlines()
        )
        == 3
    )
    assert (
        len(
            json.loads(falqon("jobs", "metrics", job_id, "--points", "4", "--json").stdout)[
                "series"
            ]["train_loss"]["steps"]
        )
        <= 4
    )
    assert "param keys" in falqon("jobs", "metrics", job_id, "--keys", "los").stderr
    shown = falqon("jobs", "show", job_id).stdout
    for words in ("times what was expected", " in training", "Next: falqon evaluate"):
        assert words in shown
    assert len(falqon("jobs", "checkpoints", job_id, "--limit", "1").stdout.splitlines()) == 2
    more = falqon("jobs", "events", job_id, "--limit", "1").stderr
    assert more.startswith("There are more: --after ftevent-")

    assert falqon("jobs", "delete", job_id).stdout == f"{job_id} is deleted.\n"
    for question in ("show", "events", "checkpoints", "metrics", "watch"):
        assert falqon("jobs", question, job_id).exit_code == 3


def test_errors_are_objects_with_json(falqon: Falqon) -> None:
    done = falqon("jobs", "show", "ftjob-unknown", "--json")
    assert done.exit_code == 3
    assert done.stdout == ""
    assert json.loads(done.stderr)["error"]["code"] == "fine_tune_not_found"


def test_workers_are_shown_with_their_devices(falqon: Falqon, service: Service) -> None:
    wait_for(lambda: re.search(r"\t(idle|busy)\t\d+ x cpu\t", falqon("workers").stdout))
