"""docs/command-line.md and the line of README.md, as they stand there, against a running service."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.client.conftest import Falqon
from tests.support.house import ROOT
from tests.support.service import Service

DOCUMENT = (ROOT / "docs" / "command-line.md").read_text()
README = (ROOT / "README.md").read_text()


def block(document: str, containing: str) -> list[str]:
    (found,) = [text for text in re.findall(r"^```sh\n(.*?)^```", document, re.M | re.S) if containing in text]
    return found.splitlines()


def run(line: str, service: Service, folder: Path) -> str:
    """As in a shell that has just seen the newest job."""
    job = next(iter(service.client.fine_tuning.jobs.list(limit=1)), None)
    shell = {"JOB": job.id, "MODEL": job.fine_tuned_model or ""} if job else {}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = service.environment | {"FALQON_DATA_DIR": str(service.folder), "PATH": path} | shell
    done = subprocess.run(["bash", "-euc", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(toy_file: Callable[..., Path], tmp_path: Path) -> Path:
    toy_file().rename(tmp_path / "support.jsonl")
    return tmp_path


def test_from_data_to_a_model_and_looking_at_it(service: Service, folder: Path) -> None:
    for line in block(DOCUMENT, "falqon download"):
        run(line, service, folder)
    assert (folder / "model" / "SHA256SUMS").exists()
    for line in block(DOCUMENT, "falqon jobs events"):
        assert run(line, service, folder)
    run(block(README, "falqon jobs create")[0] + " --yes", service, folder)


def test_the_installation_without_its_api(service: Service, folder: Path) -> None:
    _, make_key = block(DOCUMENT, "falqon admin")
    assert run(make_key, service, folder).startswith("ft_live_")


def test_the_shell_completes(service: Service, tmp_path: Path) -> None:
    words = "_FALQON_COMPLETE=complete_bash COMP_WORDS='falqon jobs c' COMP_CWORD=2 falqon"
    assert run(words, service, tmp_path).split() == ["checkpoints", "create", "clone", "cancel"]


def test_every_command_that_is_named_exists(falqon: Falqon) -> None:
    named = set(re.findall(r"falqon (files|jobs|models|keys|projects|admin models|admin keys) ([a-z]+)", DOCUMENT + README))
    assert len(named) > 8
    for group, name in named:
        assert falqon(*group.split(), name, "--help").exit_code == 0, f"falqon {group} {name}"
