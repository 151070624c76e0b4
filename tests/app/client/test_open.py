import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.client.conftest import Falqon
from tests.support.service import Service
from tests.support.waiting import wait_for


def test_the_dashboard_and_a_job_open_in_a_browser(
    falqon: Falqon,
    service: Service,
    submitted: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    job_id = submitted()
    assert falqon("open").stdout == f"{service.url}/\n"
    wait_for(lambda: opened.exists() and opened.read_text() == f"{service.url}/\n")
    assert falqon("open", job_id[-8:]).stdout == f"{service.url}/jobs/{job_id}\n"
    assert json.loads(falqon("open", job_id, "--json").stdout) == {
        "url": f"{service.url}/jobs/{job_id}"
    }
