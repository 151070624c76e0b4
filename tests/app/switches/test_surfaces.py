"""The command line and the pages of switches."""

import threading

import httpx
from typer.testing import CliRunner, Result

from app.cli import app
from tests.app.switches.conftest import make_result, models_of, put
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, sign_in, token
from worker.entry.workers import Poller
from worker.operations.evaluation import EvaluationHandler


def falqon(tenant: Tenant, *arguments: str) -> Result:
    service = ("--base-url", tenant.api.url, "--api-key", tenant.key)
    return CliRunner().invoke(app, ["aliases", *arguments, *service])


def test_the_command_waits_for_the_decision(tenant: Tenant, handler: EvaluationHandler) -> None:
    good, bad = make_result(tenant).model, make_result(tenant, "bad").model
    put(tenant, "support", tenant.base_model)
    shutting_down = threading.Event()
    poller = Poller(handler.poll, 0.2, shutting_down)
    poller.start()
    hasty = falqon(tenant, "switch", "support", good)
    assert (hasty.exit_code, "--if-not-worse" in hasty.stderr) == (2, True)
    done = falqon(tenant, "switch", "support", good, "--if-not-worse")
    assert (done.exit_code, done.stdout[:18]) == (0, "support, switched:")
    kept = falqon(tenant, "switch", "support", bad, "--if-not-worse", "--canary", "5")
    assert (kept.exit_code, kept.stdout[:14]) == (1, "support, kept:")
    shutting_down.set()
    poller.join()
    listed = falqon(tenant, "switches", "support").stdout.splitlines()
    assert [line.split()[1] for line in listed[1:] if line.startswith("ft:")] == [
        "kept",
        "switched",
    ]
    assert "switch-" in falqon(tenant, "versions", "support").stdout


def test_the_page_of_a_model_switches_a_name(tenant: Tenant, handler: EvaluationHandler) -> None:
    new = make_result(tenant).model
    put(tenant, "support", tenant.base_model)
    with httpx.Client(base_url=tenant.api.url, verify=False, timeout=20) as browser:
        sign_in(browser, tenant)
        page = browser.get(f"/models/{new}")
        assert "<option>support</option>" in page.text
        data = {"csrf": token(page), "alias": "support", "canary": "90"}
        path = f"/models/{new}/switch"
        browser.post(path, data=data, headers=SAME_SITE)
        assert "a whole percentage from 1 to 50" in browser.get(f"/models/{new}").text
        answer = browser.post(path, data=data | {"canary": "10"}, headers=SAME_SITE)
        assert answer.headers["location"] == "/settings/aliases"
        handler.poll()
        assert models_of(tenant, "support") == {new: 1, tenant.base_model: 9}
        names = browser.get("/settings/aliases").text
        assert "canary, the new model is not worse than" in names
