"""The stepper of a job's page, and what stands in place of an end that is about to come."""

import re

import httpx

from app.models import JobStatus
from tests.browser import scene
from tests.support.api import Tenant


def stages(page: str) -> list[tuple[str, str]]:
    """Return each stage with its state."""
    part = page.partition('id="job-stages"')[2].partition("</ol>")[0]
    found = re.findall(r'data-state="(\w+)".*?<span>([^<]+)</span>', part, re.DOTALL)
    return [(name, state) for state, name in found]


def states(page: str) -> list[str]:
    return [state for _, state in stages(page)]


def test_the_stages_follow_the_job(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    queued = browser.get(f"/jobs/{tenant.job(training_file=file).id}").text
    assert stages(queued)[:3] == [
        ("Files checked", "done"),
        ("Queued", "now"),
        ("Loading", "waiting"),
    ]
    training = scene.job(tenant, file, "half", scene.STEPS // 2)
    page = browser.get(f"/jobs/{training.job_id}").text
    assert states(page) == ["done", "done", "done", "now", "waiting", "waiting"]
    assert "Finishes" in page
    scene.finish(tenant, training, JobStatus.CANCELLED)
    page = browser.get(f"/jobs/{training.job_id}").text
    assert states(page)[3:] == ["stopped", "waiting", "waiting"]


def assert_merging(browser: httpx.Client, job_id: str) -> None:
    page = browser.get(f"/jobs/{job_id}").text
    assert states(page) == ["done", "done", "done", "done", "now", "waiting"]
    assert "Merging the model" in page
    assert "Finishes" not in page
    assert ">merging</td>" in re.sub(r"\s+<", "<", browser.get("/").text)


def test_a_job_that_stopped_early_merges(browser: httpx.Client, tenant: Tenant) -> None:
    claim = scene.job(tenant, tenant.upload(), "early", scene.STEPS // 2)
    early = scene.progress(scene.STEPS // 2).model_copy(update={"stopped_early": True})
    scene.write(tenant, claim, [], early)
    assert_merging(browser, claim.job_id)


def test_a_job_that_has_done_its_last_step_merges_and_does_not_finish_in_0_seconds(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "whole", scene.STEPS)
    assert_merging(browser, claim.job_id)
    exported = scene.progress(scene.STEPS).model_copy(update={"model_step": scene.STEPS})
    scene.write(tenant, claim, [], exported)
    page = browser.get(f"/jobs/{claim.job_id}").text
    assert states(page)[4:] == ["done", "now"]
    assert "Verifying the model" in page
    scene.finish(tenant, claim, JobStatus.SUCCEEDED)
    assert set(states(browser.get(f"/jobs/{claim.job_id}").text)) == {"done"}
