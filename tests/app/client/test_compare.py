"""`falqon compare`: a study from the command line, on the fake trainer."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.app.client.conftest import Falqon, newest_file
from tests.support.service import Service

COMMON = ("compare", "--model", "falqon-tiny", "--methods", "falqon,lora")


def test_methods_are_trained_and_their_table_is_written(
    falqon: Falqon, fake_file: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "table.md"
    options = ("--set", "rank=8", "--learning-rate", "lora=0.004", "--name", "mine")
    compared = falqon(
        *COMMON, "--file", str(fake_file()), *options, "--watch", "--output", str(output)
    )
    assert compared.exit_code == 0, compared.stderr
    assert "2 succeeded" in compared.stderr
    rows = [line.split(" | ")[0] for line in output.read_text().splitlines() if "|" in line]
    assert rows == ["| Method", "| ---", "| FALQON", "| LoRA"]
    assert "| 0.004 |" in output.read_text()


def test_compare_without_watching_lists_the_submitted_jobs(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    slow = fake_file(steps=2000, step_seconds=0.02)
    options = ("--learning-rate", "lora=0.004", "--learning-rate", "falqon=0.001")
    options += ("--seeds", "2", "--rate-factors", "1,0.5")
    submitted = falqon(*COMMON, "--file", str(slow), *options, "--json")
    assert submitted.exit_code == 0, submitted.stderr
    study = json.loads(submitted.stdout)
    assert [(job["method"], job["learning_rate"], job["seed"]) for job in study["jobs"]] == [
        ("falqon", 0.001, 0),
        ("falqon", 0.001, 1),
        ("falqon", 0.0005, 0),
        ("falqon", 0.0005, 1),
        ("lora", 0.004, 0),
        ("lora", 0.004, 1),
        ("lora", 0.002, 0),
        ("lora", 0.002, 1),
    ]
    for job in study["jobs"]:
        service.client.fine_tuning.jobs.cancel(job["id"])


def test_a_failure_is_the_end_of_the_command(
    falqon: Falqon, fake_file: Callable[..., Path]
) -> None:
    failed = falqon(*COMMON, "--file", str(fake_file(user_error_at=3)), "--watch")
    assert failed.exit_code == 1
    assert "2 of 2 jobs did not succeed" in failed.stderr
    assert "| LoRA |" in failed.stdout, "what there is of the table is shown all the same"


def test_an_unreadable_file_is_refused_before_any_request(
    falqon: Falqon, fake_file: Callable[..., Path]
) -> None:
    misused = falqon(*COMMON, "--file", str(fake_file()), "--output", "table.txt")
    assert misused.exit_code == 2
    assert ".md or .csv" in misused.stderr
    misused = falqon(*COMMON, "--file", str(fake_file()), "--rate-factors", "1;2")
    assert "numbers with commas" in misused.stderr


def test_an_impossible_comparison_is_refused_before_an_upload(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path]
) -> None:
    path = str(fake_file())
    before = newest_file(service)
    for arguments, reason in (
        ((*COMMON[:-1], "sgd"), "methods.0"),
        ((*COMMON, "--set", "ranks=8"), "ranks"),
        ((*COMMON[:2], "none-such"), "none-such"),
    ):
        refused = falqon(*arguments, "--file", path)
        assert refused.exit_code == 1
        assert reason in refused.stderr
    assert newest_file(service) == before


def test_a_table_that_cannot_be_written_is_said_in_a_sentence(
    falqon: Falqon, service: Service, fake_file: Callable[..., Path], tmp_path: Path
) -> None:
    before = newest_file(service)
    command = (*COMMON, "--file", str(fake_file(steps=2000, step_seconds=0.02)), "--output")
    nowhere = falqon(*command, str(tmp_path / "nowhere" / "table.md"))
    assert (nowhere.exit_code, "there is no folder" in nowhere.stderr) == (2, True)
    assert newest_file(service) == before, "nothing was uploaded"
    (tmp_path / "folder.md").mkdir()
    taken = falqon(*command, str(tmp_path / "folder.md"))
    assert (taken.exit_code, "cannot be written: Is a directory" in taken.stderr) == (1, True)
    for job in service.client.fine_tuning.jobs.list(limit=2).data:
        service.client.fine_tuning.jobs.cancel(job.id)
