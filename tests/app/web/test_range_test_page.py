"""The learning rate on pages: the button of the form, the curve, and the way back to the form."""

import re

import httpx
from sqlalchemy import update

from app.base.database import now_plus
from app.base.text import duration
from app.models import Job, JobStatus
from app.models.job_progress import JobProgress
from tests.support.api import Tenant
from tests.support.fake_trainer import range_test
from tests.support.pages import SAME_SITE, token


def test_the_form_prices_the_range_test_beside_its_button(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = browser.get("/jobs/new")
    file = tenant.upload()
    values = {"csrf": token(page), "model": tenant.base_model, "training_file": file}
    request = tenant.client.post(
        "/fine_tuning/estimates",
        body={key: values[key] for key in ("model", "training_file")}
        | {"falqon": {"find_rate": True}},
        cast_to=object,
    )
    price = f"The test: about {duration(request['seconds']['expected'])}, &lt; $0.01."
    estimated = browser.post(
        "/jobs/new/estimate", data=values, headers=SAME_SITE | {"HX-Request": "true"}
    )
    assert price in estimated.text
    again = browser.post("/jobs/new/estimate", data=values, headers=SAME_SITE)
    assert price in again.text, "without the script, too"


def test_the_form_submits_a_range_test_whose_page_leads_back_with_its_rate(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload()
    page = browser.get("/jobs/new")
    assert "Find a learning rate</button>" in page.text
    values = {"csrf": token(page), "model": tenant.base_model, "training_file": file, "rank": "4"}
    submitted = browser.post("/jobs/new", data=values | {"find_rate": "true"}, headers=SAME_SITE)
    assert submitted.status_code == 200, submitted.text
    job_id = submitted.url.path.rpartition("/")[2]
    job = tenant.client.fine_tuning.jobs.retrieve(job_id)
    assert (job.config["find_rate"], job.config["rank"]) == (True, 4)
    assert "· range test" in submitted.text
    assert "Merging" not in submitted.text, "it makes no model"
    assert "Try three rates" not in submitted.text, "it would be charged as three trainings"
    hidden = re.compile(r'<section id="job-range_test"[^>]* hidden>')
    assert hidden.search(submitted.text)

    with tenant.api.database.transaction() as session:
        progress = JobProgress(step=20, total_steps=20, percent=100, range_test=range_test())
        ended = {"status": JobStatus.SUCCEEDED, "progress": progress, "finished_at": now_plus()}
        session.execute(update(Job).where(Job.id == job_id).values(**ended))
    after = browser.get(f"/jobs/{job_id}").text
    assert not hidden.search(after)
    assert "A learning rate of 0.005 is proposed." in after
    assert len(re.findall(r"\[-?[\d.]+, -?[\d.]+\]", after)) == len(range_test().points)
    (link,) = re.findall(r'href="(/jobs/new\?like=[^"]*)">Use 0.005</a>', after)
    form = browser.get(link.replace("&amp;", "&")).text
    for name, value in {"learning_rate": "0.005", "rank": "4"}.items():
        assert re.search(rf'<input id="{name}" name="{name}" value="{value}"', form), name
