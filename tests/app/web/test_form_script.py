"""What the script that sends forms gets, where a browser by itself gets pages."""

import httpx

from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token

BY_SCRIPT = SAME_SITE | {"x-form-script": "send"}
AGAIN = SAME_SITE | {"x-form-script": "repeat"}


def test_a_form_sent_by_script_gets_the_next_page_with_its_message(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = tenant.job().id
    form = {"csrf": token(browser.get(f"/jobs/{job_id}"))}
    answer = browser.post(f"/jobs/{job_id}/pause", data=form, headers=BY_SCRIPT)
    assert (answer.status_code, answer.headers["x-next-page"]) == (204, f"/jobs/{job_id}")
    assert "Job paused." in browser.get(f"/jobs/{job_id}").text


def test_a_refusal_is_a_message(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    answer = browser.post(f"/jobs/{job_id}/pause", data={"csrf": "x"}, headers=BY_SCRIPT)
    assert (answer.status_code, "load the page again" in answer.json()["error"]["message"]) == (
        403,
        True,
    )
    assert tenant.client.fine_tuning.jobs.retrieve(job_id).status == "queued"


def test_a_refused_value_is_a_message(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job(extra_body={"falqon": {"budget": {"max_seconds": 10}}}).id
    tenant.client.fine_tuning.jobs.pause(job_id)
    csrf = token(browser.get(f"/jobs/{job_id}"))
    form = {"csrf": csrf, "has_caps": "true", "max_seconds": "ten"}
    answer = browser.post(f"/jobs/{job_id}/resume", data=form, headers=BY_SCRIPT)
    assert (answer.status_code, "whole number" in answer.json()["error"]["message"]) == (400, True)
    assert "whole number" not in browser.get(f"/jobs/{job_id}").text


def test_a_copy_whose_answer_was_lost_is_made_once(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    form = {"csrf": token(browser.get(f"/jobs/{job_id}"))}
    copy, repeated, second_copy = (
        browser.post(f"/jobs/{job_id}/clone", data=form, headers=headers).headers["x-next-page"]
        for headers in (BY_SCRIPT, AGAIN, BY_SCRIPT)
    )
    assert copy == repeated != second_copy
