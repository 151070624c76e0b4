"""Jobs and files by what a person remembers of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.app.client.conftest import Falqon


@pytest.fixture
def jobs(falqon: Falqon, fake_file: Callable[..., Path]) -> list[tuple[str, str]]:
    """Ids and suffixes of two jobs, the newest last."""
    made = []
    for suffix in ("blue-one", "blue-two"):
        create = ("jobs", "create", "--model", "falqon-tiny", "--file", str(fake_file()))
        done = falqon(*create, "--suffix", suffix, "--yes", "--json")
        made.append((json.loads(done.stdout)["id"], suffix))
    return made


def test_a_job_is_found_by_what_a_person_remembers(
    falqon: Falqon, jobs: list[tuple[str, str]]
) -> None:
    (first, _), (second, suffix) = jobs
    for text, job_id in (
        ("@last", second),
        (suffix, second),
        (first[-8:], first),
        (first, first),
    ):
        shown = falqon("jobs", "show", text, "--json")
        assert json.loads(shown.stdout)["id"] == job_id, text
    unknown = falqon("jobs", "show", "green")
    assert unknown.exit_code == 3
    assert "green" in unknown.stderr


def test_every_job_of_a_comparison_is_found_as_one_is(
    falqon: Falqon, jobs: list[tuple[str, str]]
) -> None:
    (first, _), (second, _) = jobs
    for name in ("@last", second[-8:], second):
        compared = falqon("jobs", "compare", first[-8:], name, "--json")
        assert compared.exit_code == 0, compared.stderr
        assert [job["id"] for job in json.loads(compared.stdout)["data"]] == [first, second]
    unknown = falqon("jobs", "compare", first[-8:], "green")
    assert unknown.exit_code == 3
    assert "green" in unknown.stderr


def test_a_file_of_an_option_is_found_as_one_that_is_shown(
    falqon: Falqon, jobs: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Each refusal is of a file that the service has found."""
    (job_id, _), _ = jobs
    (tmp_path / "held-out.jsonl").write_text('{"text": "some"}\n')
    uploaded = falqon("files", "upload", "held-out.jsonl", "--wait", "--json")
    file_id = json.loads(uploaded.stdout)["id"]
    for name in (file_id, file_id[-8:], "held-out.jsonl"):
        evaluated = falqon("evaluate", job_id, "--file", name, "--checkpoint", "999")
        assert "no checkpoint" in evaluated.stderr
        report = ("files", "report", file_id, "--model", "falqon-tiny")
        assert "it is the file itself" in falqon(*report, "--validation-file", name).stderr
    unknown = falqon("evaluate", job_id, "--file", "held-in.jsonl")
    assert "held-in.jsonl" in unknown.stderr


def test_a_name_of_two_is_refused_with_their_ids(
    falqon: Falqon, fake_file: Callable[..., Path], tmp_path: Path
) -> None:
    ids = []
    for _ in range(2):
        renamed = fake_file().rename(tmp_path / "twice.jsonl")
        uploaded = falqon("files", "upload", str(renamed), "--json")
        ids.append(json.loads(uploaded.stdout)["id"])
    twice = falqon("files", "show", "twice.jsonl")
    assert twice.exit_code == 2
    assert all(id_ in twice.stderr for id_ in ids)
    assert json.loads(falqon("files", "show", "@last", "--json").stdout)["id"] == ids[-1]


def test_what_a_job_wrote_is_no_file_to_train_with(
    falqon: Falqon, fake_file: Callable[..., Path], tmp_path: Path
) -> None:
    create = ("jobs", "create", "--model", "falqon-tiny", "--yes", "--json")
    job = json.loads(falqon(*create, "--file", str(fake_file())).stdout)
    assert falqon("jobs", "watch", job["id"]).exit_code == 0
    newest = falqon("files", "list", "--purpose", "all", "--limit", "1", "--json")
    (result,) = json.loads(newest.stdout)["data"]
    assert result["purpose"] == "fine-tune-results"

    def shown(name: str) -> str:
        return str(json.loads(falqon("files", "show", name, "--json").stdout)["id"])

    assert shown("@last") == job["training_file"]
    again = falqon(*create, "--file", "@last")
    assert json.loads(again.stdout)["training_file"] == job["training_file"], again.stderr
    falqon("jobs", "cancel", json.loads(again.stdout)["id"])
    assert shown(result["id"][-8:]) == shown(result["id"]) == result["id"]
    assert falqon("files", "delete", result["filename"]).exit_code == 3
    (tmp_path / result["filename"]).write_text('{"text": "some"}\n')
    uploaded = falqon("files", "upload", result["filename"], "--json")
    assert uploaded.exit_code == 0, uploaded.stderr
    assert shown(result["filename"]) == json.loads(uploaded.stdout)["id"]


def test_a_model_is_found_by_the_end_of_its_id_or_as_the_last(
    falqon: Falqon, submitted: Callable[..., str]
) -> None:
    job_id = submitted("--suffix", "lamps")
    assert falqon("jobs", "watch", job_id).exit_code == 0
    model = json.loads(falqon("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]

    def shown(text: str) -> dict[str, Any]:
        done = falqon("models", "show", text, "--json")
        return cast(dict[str, Any], json.loads(done.stdout))

    assert shown(model[-8:])["id"] == shown(model)["id"] == model
    # A job of another test may have left its model meanwhile.
    assert shown("@last")["created"] >= shown(model)["created"]
    assert shown("falqon-tiny")["id"] == "falqon-tiny"


def test_a_shell_completes_the_names_of_objects(
    falqon: Falqon, jobs: list[tuple[str, str]]
) -> None:
    (_, _), (second, suffix) = jobs

    def completed(*words: str) -> list[str]:
        line = " ".join(("falqon", *words))
        variables = {
            "_FALQON_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        }
        return falqon(env=variables, prog_name="falqon").stdout.split()

    assert completed("jobs", "show", second[-8:-2]) == [second[-8:]]
    assert completed("jobs", "show", "blue-t") == [suffix]
    assert "falqon-tiny" in completed("chat", "falq")
    assert completed("jobs", "show", "--base-url", "http://127.0.0.1:1", "b") == []
