"""What the page of a job offers once there are answers, checkpoints and a model."""

import re

import httpx
import pytest
from sqlalchemy import update

from app.models import Export, Model, OperationStatus
from app.web.job_answers import Turn, read_turns
from app.web.text import model_page, playground
from tests.browser import scene
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token


def section(page: str, id_: str) -> str:
    """A part of the page, as text."""
    return page[page.index(f'id="{id_}"') :].partition("</section>")[0]


def test_the_newest_answer_stands_beside_what_was_expected(
    browser: httpx.Client, tenant: Tenant
) -> None:
    claim = scene.job(tenant, tenant.upload(), "answers", 60)
    answers = [
        scene.sampled(
            step, text, "system\nBe brief.\nuser\nWhat is it?\nassistant\n", "It is four."
        )
        for step, text in ((70, "It is three."), (80, "It is four.\n"))
    ]
    scene.write(tenant, claim, answers, scene.progress(80))
    samples = section(browser.get(f"/jobs/{claim.job_id}").text, "job-samples")
    newest, _, older = samples.rpartition("</article>")[0].rpartition("<details")
    newest = newest[newest.rindex("<article") :]
    assert re.findall(r"<figcaption>(\w+ ?\d*)", newest) == ["Step 80", "Expected"]
    assert newest.count("exact match") == 1
    assert "1 earlier evaluation<" in older
    assert ("Step 70" in older, "exact match" in older) == (True, False)
    assert re.findall(r'data-role="(\w+)"', newest)[:2] == ["system", "user"]
    assert "1 of 2 matches exactly at step" in samples


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        ("What is it?", [Turn("user", "What is it?")]),
        (
            "system\nBe brief.\nuser\nAre you a user?\nOr not?\nassistant\n",
            [Turn("system", "Be brief."), Turn("user", "Are you a user?\nOr not?")],
        ),
        (
            "Cut off: end.\nuser: And?\nassistant: Yes.\nuser: Why?\n",
            [
                Turn("system", "Cut off: end."),
                Turn("user", "And?"),
                Turn("assistant", "Yes."),
                Turn("user", "Why?"),
            ],
        ),
    ],
)
def test_a_prompt_is_read_as_a_conversation(prompt: str, turns: list[Turn]) -> None:
    assert read_turns(prompt) == turns


def test_a_checkpoint_is_trained_from_and_becomes_a_model(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = scene.scene(tenant).succeeded
    (checkpoint,) = tenant.client.fine_tuning.jobs.checkpoints.list(job_id)
    name = checkpoint.fine_tuned_model_checkpoint
    page = browser.get(f"/jobs/{job_id}")
    table = section(page.text, "job-checkpoints")
    assert (">best<" in table, playground(name) in table) == (True, False)
    (path,) = re.findall(r'action="([^"]+/model)"', table)
    (form,) = re.findall(r'href="(/jobs/new[^"]+)"', table)
    filled = browser.get(form.replace("&amp;", "&")).text
    assert re.search(rf'<option value="{re.escape(name)}" selected', filled)

    page = browser.post(path, data={"csrf": token(page)}, headers=SAME_SITE)
    assert f"creates the model of step {scene.EVALUATE_EVERY}" in page.text
    assert ("in progress" in page.text, 'hx-select="#job-checkpoints"' in page.text) == (True, True)
    export = tenant.http.get(f"/v1/models/{name}/exports/fp8").json()
    assert export["status"] == "in_progress"

    tenant.add_model(name, project_id=tenant.project_id, base=tenant.base_model, job_id=job_id)
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Export).where(Export.source == name).values(status=OperationStatus.COMPLETED)
        )
    table = section(browser.get(f"/jobs/{job_id}").text, "job-checkpoints")
    assert f'href="{playground(name)}"' in table
    assert f'href="{model_page(name)}"' in table
    assert "Make model" not in table


def test_a_checkpoint_of_a_job_that_goes_on_is_only_shown(
    browser: httpx.Client, tenant: Tenant
) -> None:
    table = section(browser.get(f"/jobs/{scene.scene(tenant).running}").text, "job-checkpoints")
    assert (">best<" in table, "button" in table) == (True, False)


def test_a_checkpoint_of_a_job_that_goes_on_is_asked_as_an_adapter(
    browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = scene.scene(tenant).running
    with tenant.api.database.transaction() as session:
        model = session.get_one(Model, tenant.base_model)
        model.config = {**model.config, "model_type": "llama"}
    checkpoint = tenant.client.fine_tuning.jobs.checkpoints.list(job_id).data[0]
    name = checkpoint.fine_tuned_model_checkpoint
    refused = tenant.http.post(f"/v1/models/{name}/exports", json={"format": "fp8"})
    assert "until then as gguf_lora" in refused.json()["error"]["message"]
    page = browser.get(f"/jobs/{job_id}")
    path = next(iter(re.findall(r'action="([^"]+/adapter)"', page.text)))
    page = browser.post(path, data={"csrf": token(page)}, headers=SAME_SITE)
    assert "creates the model of step" in page.text
    adapter = f"{name}:gguf_lora"
    tenant.add_model(adapter, project_id=tenant.project_id, base=tenant.base_model, job_id=job_id)
    table = section(browser.get(f"/jobs/{job_id}").text, "job-checkpoints")
    assert f'href="{playground(adapter)}"' in table


def test_a_model_that_is_ready_offers_what_comes_next(
    browser: httpx.Client, tenant: Tenant
) -> None:
    objects = scene.scene(tenant)
    model = objects.model
    job_page = browser.get(f"/jobs/{objects.succeeded}").text
    for page in (section(job_page, "job-artifacts"), browser.get(model_page(model)).text):
        for link in (
            f'class="button primary" href="{playground(model)}">Try it',
            f'href="{model_page(model)}/archive">Download',
            f'href="/jobs/new?model={model.replace(":", "%3A")}">Train further',
            f"falqon publish {model} hf:OWNER/NAME",
        ):
            assert link in page
        assert page.index("Try it") < page.index("Use it<")
        assert page.count('name="tool"') == 6
    assert f'<option value="{model}" selected' in browser.get(f"/jobs/new?model={model}").text
