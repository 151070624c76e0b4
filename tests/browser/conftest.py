"""Pages in a real Chromium. A page that runs a script it should not, opens a dialog, or breaks the
policy of its headers fails its test, whatever else that test looks at.
"""

import os
import shutil
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from app.web import assets
from tests.browser.visit import CHROMIUMS, PATIENCE, Visits
from tests.support.api import Api
from tests.support.fixtures import tenant as tenant
from tests.support.service import Service


# No longer than the package: while it lives, its event loop runs in this thread, and other tests
# have loops of their own.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(CHROMIUMS)}): apt-get install chromium")
    if not assets.are_installed() or not (assets.PACKAGES_FOLDER / "axe-core").exists():
        pytest.skip("the browser assets are not installed: make assets")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=[*as_root, "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visits(chromium: Browser) -> Iterator[Visits]:
    visits = Visits(chromium)
    yield visits
    visits.close()
    assert visits.faults == []


@pytest.fixture(scope="module")
def fake_service(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Service]:
    """The whole service, with a trainer that starts at once."""
    environment = {"FALQON_NUM_THREADS": "1", "FALQON_HEARTBEAT": "PT0.3S", "FALQON_POLL": "PT0.5S"}
    folder = short_tmp / request.module.__name__.rpartition(".")[2]
    service = Service(folder, environment, forked=True)
    service.wait_until_up()
    yield service
    service.close()


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API without workers, for pages whose content a test writes itself."""
    folder = tmp_path_factory.mktemp("browser")
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}", folder, webhook_networks=[ip_network("127.0.0.0/8")]
    )
    yield api
    api.stop()
