"""Other releases of the official client, and the asynchronous one, each in its own environment and over the whole way of a job."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from app.database import Database
from app.ids import new_id
from app.keys.service import create_key
from app.models import Project, Scope
from tests.support.environments import OPENAI, python_with
from tests.support.house import ROOT
from tests.support.service import Service

MODEL = "house/tiny"
PACE = {"FALQON_HEARTBEAT": "PT0.2S", "FALQON_POLL": "PT0.5S", "FALQON_WEBHOOK_NETWORKS": '["127.0.0.0/8"]'}


@pytest.fixture(scope="module")
def service(short_tmp: Path) -> Iterator[Service]:
    service = Service(short_tmp / "clients", PACE)
    service.wait_until_up()
    added = service.run("admin", "models", "add", MODEL, "--source", "builtin:falqon-tiny")
    assert added.returncode == 0, added.stderr
    yield service
    service.stop()
    service.close()


@pytest.fixture
def python(release: str) -> Path:
    return python_with(OPENAI[release])


def traveller(service: Service, *, asynchronous: bool) -> tuple[str, dict[str, Any]]:
    """The key of a project of its own, and what else the journey needs."""
    database = Database(f"sqlite:///{service.folder / 'falqon.db'}")
    projects = [new_id("proj_") for _ in range(3)]
    with database.transaction() as session:
        session.add_all(Project(id=project_id, name="acme") for project_id in projects)
        session.flush()
        (_, key), (_, reading_key) = (create_key(session, projects[0], "journey", scope) for scope in (Scope.WRITE, Scope.READ))
    database.dispose()
    options = {"base_url": f"{service.url}/v1", "asynchronous": asynchronous, "model": MODEL}
    return key, options | {"reading_key": reading_key, "other_projects": projects[1:]}


@pytest.mark.parametrize(("release", "asynchronous"), [*((release, False) for release in OPENAI), ("newest-3", True)])
def test_every_call_of_the_client_works(service: Service, release: str, python: Path, asynchronous: bool) -> None:
    key, options = traveller(service, asynchronous=asynchronous)
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("FALQON_", "OPENAI_", "PYTHON"))}
    done = subprocess.run(
        [python, "-m", "tests.contract.journey"],
        cwd=ROOT,
        env=outside | {"OPENAI_API_KEY": key, "JOURNEY": json.dumps(options)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert SpecifierSet(OPENAI[release].removeprefix("openai")).contains(seen["version"])
    assert seen["never_called"] == [], f"openai {seen['version']} offers more than the journey tries"
