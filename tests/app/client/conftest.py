"""`falqon` in this process or in one of its own, always over real HTTP, against `falqon up` on the
fake trainer.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from tests.support.fake_trainer import FakeTrainer
from tests.support.proxy import Proxy
from tests.support.service import Service

VARIABLES = ("FALQON_BASE_URL", "FALQON_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY")
MAX_FILE_BYTES = 2**19  # so that a larger one, which goes up in parts, is still a small one
Falqon = Callable[..., Result]


_numbers = itertools.count()


# No longer than the package: its workers poll all the time.
@pytest.fixture(scope="package")
def service(short_tmp: Path) -> Iterator[Service]:
    settings = {
        "FALQON_LEASE": "PT3S",
        "FALQON_HEARTBEAT": "PT0.5S",
        "FALQON_POLL": "PT0.5S",
        "FALQON_MAX_FILE_BYTES": str(MAX_FILE_BYTES),
        "FALQON_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
    }
    # A process of the suite may leave the package and come back; what the service before has left
    # in its folder would be taken for signs of this one.
    service = Service(short_tmp / f"client{next(_numbers)}", settings, forked=True)
    service.wait_until_up()
    yield service
    service.stop()
    service.close()


@pytest.fixture
def falqon(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Falqon:
    """Beside the service: address and key come from the file that it leaves in its data folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FALQON_DATA_DIR", str(service.folder))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app, arguments, **options)

    return run


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    with Proxy(service.port) as proxy:
        yield proxy


def facts(output: str) -> dict[str, str]:
    """Name and value of what a command shows as one pair a line."""
    pairs = (re.split(r" {2,}", line.rstrip(), maxsplit=1) for line in output.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def newest_file(service: Service) -> str | None:
    return next((file.id for file in service.client.files.list(limit=1, purpose="fine-tune")), None)


@pytest.fixture
def fake_file(tmp_path: Path) -> Callable[..., Path]:
    def write(**fake: Any) -> Path:
        path = tmp_path / "fake.jsonl"
        path.write_text(json.dumps({"text": FakeTrainer(**fake).model_dump_json()}) + "\n")
        return path

    return write


@pytest.fixture
def submitted(falqon: Falqon, fake_file: Callable[..., Path]) -> Callable[..., str]:
    """The id of a job on the fake trainer."""

    def submit(*arguments: str, **fake: Any) -> str:
        done = falqon(
            "jobs",
            "create",
            "--model",
            "falqon-tiny",
            "--file",
            str(fake_file(**fake)),
            "--yes",
            "--json",
            *arguments,
        )
        assert done.exit_code == 0, done.stderr
        return str(json.loads(done.stdout)["id"])

    return submit
