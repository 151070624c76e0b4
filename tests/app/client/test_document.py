"""docs/command-line.md, the first day of docs/operations.md and the line of README.md, as written,
against a running service.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template

import httpx
import pytest

from tests.app.client.conftest import Falqon, facts
from tests.support.backend import ROOT
from tests.support.environments import OPENAI, python_with
from tests.support.service import KEY, Service

DOCUMENT = (ROOT / "docs" / "command-line.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()


def block(document: str, containing: str) -> list[str]:
    (script,) = [
        text
        for text in re.findall(r"^```sh\n(.*?)^```", document, re.M | re.S)
        if containing in text
    ]
    return script.splitlines()


def newest(service: Service) -> dict[str, str]:
    """Return the variables of a shell that has just seen the newest job that succeeded."""
    jobs = service.client.fine_tuning.jobs.list(limit=1, extra_query={"status": "succeeded"})
    job = next(iter(jobs), None)
    return {"JOB": job.id, "MODEL": job.fine_tuned_model or ""} if job else {}


def run_line(line: str, falqon: Falqon, service: Service) -> str:
    """Run a command that needs no shell in this process."""
    name, *arguments = shlex.split(Template(line).substitute(newest(service)), comments=True)
    assert name == "falqon"
    done = falqon(*arguments)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.stdout


def run(script: str, service: Service, folder: Path) -> str:
    """Run it in a shell."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"FALQON_DATA_DIR": str(service.folder), "PATH": path} | newest(service)
    environment = service.environment | variables
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(fake_file: Callable[..., Path], tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    fake_file().rename(tmp_path / "demo" / "support_desk.jsonl")
    return tmp_path


def test_from_data_to_a_model_and_looking_at_it(
    falqon: Falqon, service: Service, folder: Path
) -> None:
    *to_a_model, download = block(DOCUMENT, "falqon download")
    output = run("\n".join(to_a_model), service, folder)
    for words in (
        "an epoch",
        "place in the queue",
        "falqon download ft:falqon-tiny:default:first:",
    ):
        assert words in output
    # what it is depends on how fast the jobs before were
    assert re.search(r"^cost +(< )?\$0\.\d\d", output, re.M)
    run_line(download, falqon, service)
    assert (folder / "model" / "SHA256SUMS").exists()
    for line in block(DOCUMENT, "falqon jobs events"):
        needs_shell = "$(" in line or "|" in line
        assert run(line, service, folder) if needs_shell else run_line(line, falqon, service)
    run_line(block(README, "--suffix first --watch")[0] + " --yes", falqon, service)


def test_one_changed_line_is_enough_for_every_release_of_the_client(
    service: Service, tmp_path: Path
) -> None:
    """The code of README.md up to where it waits, in a checkout's place."""
    (code,) = re.findall(r"^```python\n(.*?)^while ", README, re.M | re.S)
    code = code.replace("http://127.0.0.1:8000", service.url)
    code = code.replace("smollm2-135m-instruct", "falqon-tiny")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    environment = os.environ | {"FALQON_API_KEY": KEY}
    job_ids = []
    for requirement in OPENAI.values():
        command = [python_with(requirement), "-W", "ignore", "-c", f"{code}print(job.id)"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        job_ids.append(done.stdout.strip())
    listed = [job.id for job in service.client.fine_tuning.jobs.list()]
    assert [id_ for id_ in listed if id_ in job_ids] == job_ids[::-1]
    assert len(set(job_ids)) == len(OPENAI)


def test_the_first_day_of_an_operator(service: Service, folder: Path) -> None:
    output = run("\n".join(block(OPERATIONS, "first-backup")), service, folder)
    assert "Nothing is held back" in output
    assert (folder / "first-backup" / "backup.json").exists()
    (secret,) = re.findall(r"\bft_live_\w+", output)
    answer = httpx.get(f"{service.url}/metrics", headers={"authorization": f"Bearer {secret}"})
    assert "falqon_workers" in answer.text


def test_a_project_with_a_key(service: Service, tmp_path: Path) -> None:
    key, *project = run(
        "\n".join(block(DOCUMENT, "falqon projects")), service, tmp_path
    ).splitlines()
    assert key.startswith("ft_live_")
    assert facts("\n".join(project))["weight"] == "2"


def test_the_installation_without_its_api(falqon: Falqon, service: Service) -> None:
    commands = block(DOCUMENT, "falqon admin")

    # these have tests of their own
    others = ("doctor", "models add", "drain", "requeue", "backup")
    ours = ("check", "models list", "keys create", "workers list", "engines list")
    ours += ("users list", "garbage", "adopt-storage")
    assert [line for line in commands if not any(words in line for words in ours + others)] == []

    def output_of(words: str) -> str:
        (command,) = [line for line in commands if words in line]
        return run_line(command, falqon, service)

    assert "wrong" not in output_of("falqon check")
    assert "falqon-tiny" in output_of("models list")
    assert output_of("keys create").startswith("ft_live_")
    assert output_of("workers list") == ""
    assert output_of("users list") == ""  # nobody has signed in through a provider
    # Jobs of other tests may have been evaluated.
    assert {line.split()[0] for line in output_of("engines list").splitlines()} <= {"falqon-tiny"}
    assert "Nothing is held back" in output_of("garbage --dry-run")
    assert "belonged already" in output_of("adopt-storage")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("falqon jobs c", ["checkpoints", "create", "clone", "cancel", "clean", "compare"]),
        ("falqon jobs resume --max", ["--max-cost-usd", "--max-seconds"]),
        (
            "falqon projects change P --unlimited max-",
            ["max-live-jobs", "max-storage-bytes", "max-device-hours", "max-running-gpus"],
        ),
    ],
)
def test_the_shell_completes(
    service: Service, tmp_path: Path, typed: str, completed: list[str]
) -> None:
    words = (
        f"_FALQON_COMPLETE=complete_bash COMP_WORDS='{typed}' COMP_CWORD={len(typed.split()) - 1} "
        "falqon"
    )
    assert run(words, service, tmp_path).split() == completed


def test_every_command_that_is_named_exists(falqon: Falqon) -> None:
    commands = set(
        re.findall(
            r"falqon (files|jobs|models|keys|projects|admin models|admin keys) ([a-z-]+)",
            DOCUMENT + README,
        )
    )
    assert len(commands) > 8
    for group, name in commands:
        assert falqon(*group.split(), name, "--help").exit_code == 0, f"falqon {group} {name}"
