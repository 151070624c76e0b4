"""The wheel of `make wheel`; `make wheel-check` installs it with all that it depends on."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.backend import ROOT
from tests.support.service import Service


@pytest.fixture(scope="module")
def installed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel installs by itself."""
    wheels, folder = (tmp_path_factory.mktemp(name) for name in ("wheels", "installed"))
    subprocess.run(["make", "wheel", f"WHEELS={wheels}"], cwd=ROOT, check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*install, *wheels.iterdir()], check=True)
    return folder


def test_the_service_runs_from_a_wheel_alone(installed_folder: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(installed_folder)}
    location = subprocess.run(
        [sys.executable, "-c", "import app, falqon_core, migrations; print(app.__path__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(installed_folder) in location, "else the checkout is tested"
    service = Service(tmp_path / "data", environment, fake=False)
    try:
        service.wait_until_up()
        pages = httpx.get(f"{service.url}/sign-in").text + httpx.get(f"{service.url}/docs").text
        files = re.findall(r'(?:src|href)="(/(?:static|assets|docs/assets)/[^"]+)"', pages)
        assert any("/htmx/" in path for path in files)
        for path in files:
            assert httpx.get(f"{service.url}{path}").status_code == 200, path
        assert [model.id for model in service.client.models.list()] == ["falqon-tiny"]
    finally:
        service.close()
