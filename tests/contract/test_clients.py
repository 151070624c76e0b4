"""Other releases of the official client, and the asynchronous one, each in its own environment and
over the whole way of a job.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.backend import ROOT
from tests.support.environments import OPENAI, python_with
from tests.support.service import Service

MODEL = "backend/tiny"
PACE = {
    "FALQON_HEARTBEAT": "PT0.2S",
    "FALQON_POLL": "PT0.5S",
    "FALQON_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
}


@pytest.fixture(scope="module")
def service(short_tmp: Path) -> Iterator[Service]:
    service = Service(short_tmp / "clients", PACE, forked=True)
    service.wait_until_up()
    added = service.run("admin", "models", "add", MODEL, "--source", "builtin:falqon-tiny")
    assert added.returncode == 0, added.stderr
    yield service
    service.stop()
    service.close()


@pytest.fixture
def python(release: str) -> Path:
    return python_with(OPENAI[release])


def project(service: Service, **limits: int) -> str:
    created: Any = service.client.post("/projects", body={"name": "acme"} | limits, cast_to=object)
    return str(created["id"])


def key(service: Service, project_id: str, scope: str = "write") -> str:
    created: Any = service.client.post(
        "/api_keys",
        body={"name": "journey", "scope": scope, "project_id": project_id},
        cast_to=object,
    )
    return str(created["secret"])


def luggage(service: Service, *, asynchronous: bool) -> tuple[str, dict[str, Any]]:
    """The key of a project of its own, and what else the journey needs."""
    own = project(service)
    limited = project(service, requests_per_minute=60, max_live_jobs=0)
    return key(service, own), {
        "base_url": f"{service.url}/v1",
        "asynchronous": asynchronous,
        "model": MODEL,
        "reading_key": key(service, own, "read"),
        "limited_key": key(service, limited),
        "other_projects": [limited, project(service)],
    }


# The newest one is asynchronous here, and what the tests beside this file use.
@pytest.mark.parametrize(
    ("release", "asynchronous"), [(release, release == "newest-3") for release in OPENAI]
)
def test_every_call_of_the_client_works(
    service: Service, release: str, python: Path, asynchronous: bool
) -> None:
    api_key, options = luggage(service, asynchronous=asynchronous)
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FALQON_", "OPENAI_", "PYTHON"))
    }
    done = subprocess.run(
        [python, "-m", "tests.contract.journey"],
        cwd=ROOT,
        env=outside | {"OPENAI_API_KEY": api_key, "JOURNEY": json.dumps(options)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert SpecifierSet(OPENAI[release].removeprefix("openai")).contains(report["version"])
    assert report["never_called"] == [], (
        f"openai {report['version']} offers more than the journey tries"
    )
