import html
import json
import re
from typing import Any

import httpx
import pytest

from app.web.playground_view import ExamplePrompt, prompt_of
from app.web.text import model_page, playground
from falqon_core.records.line_parser import parse_record
from tests.browser import scene
from tests.support.api import Tenant, jsonl
from tests.support.pages import SAME_SITE, token

ASK = "/playground/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def shown_models(page: str) -> list[str]:
    ids = re.findall(r'<option value="([^"]*)" selected>', page)
    return [html.unescape(id_) for id_ in ids]


def prompts(page: str) -> list[dict[str, Any]]:
    return [json.loads(html.unescape(text)) for text in re.findall(r'data-prompt="([^"]*)"', page)]


def headers(browser: httpx.Client) -> dict[str, str]:
    return SAME_SITE | {"x-form-token": token(browser.get("/"))}


def test_a_succeeded_job_and_its_model_link_to_the_playground(
    browser: httpx.Client, tenant: Tenant
) -> None:
    objects = scene.scene(tenant)
    link = f'href="{playground(objects.model)}"'
    job = browser.get(f"/jobs/{objects.succeeded}").text
    assert job.index('id="job-artifacts"') < job.index(link) < job.index('id="job-progress"')
    assert link not in browser.get(f"/jobs/{objects.running}").text
    for path in (model_page(objects.model), "/models"):
        assert link in browser.get(path).text
    assert f'href="{playground(objects.base_model)}"' in browser.get("/models").text


def test_the_base_model_stands_beside_a_model(browser: httpx.Client, tenant: Tenant) -> None:
    objects = scene.scene(tenant)
    page = browser.get(playground(objects.model)).text
    assert shown_models(page) == [objects.model, objects.base_model]
    alone = browser.get("/playground", params={"model": objects.model, "beside": ""}).text
    assert shown_models(alone) == [objects.model]
    assert shown_models(browser.get("/playground").text)[0] == objects.model
    assert browser.get("/playground?model=nothing").status_code == 404


def test_the_playground_offers_the_sample_prompts_of_the_job(
    browser: httpx.Client, tenant: Tenant
) -> None:
    held_out = tenant.upload(jsonl(12, "held out"))
    job_id = tenant.job(validation_file=held_out).id
    tenant.add_model("ft:a:acme::1", project_id=tenant.project_id, job_id=job_id)
    page = browser.get(playground("ft:a:acme::1")).text
    assert "Validation prompts" in page
    turns = [{"role": "user", "content": "two and two?"}]
    assert prompts(page) == [{"system": "", "turns": turns, "expected": "held out"}] * 8
    tenant.client.fine_tuning.jobs.cancel(job_id)
    tenant.client.files.delete(held_out)
    assert prompts(browser.get(playground("ft:a:acme::1")).text) == []
    trained_on = browser.get(playground(scene.scene(tenant).model)).text
    assert "Training prompts" in trained_on
    assert prompts(trained_on)[0]["expected"] == "four"


SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Hi."}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [SYSTEM, *HELLO, ANSWER]}, ("Be brief.", HELLO, "Hi.")),
        (
            {"messages": [*HELLO, ANSWER | {"weight": 0}, *HELLO, ANSWER]},
            ("", [*HELLO, ANSWER, *HELLO], "Hi."),
        ),
        ({"prompt": "Hello", "completion": "Hi."}, ("", HELLO, "Hi.")),
        (
            {
                "input": {"messages": [SYSTEM, *HELLO]},
                "preferred_output": [ANSWER],
                "non_preferred_output": [ANSWER | {"content": "Go."}],
            },
            ("Be brief.", HELLO, "Hi."),
        ),
        ({"text": "Hello"}, None),
        ({"messages": [ANSWER]}, None),
        ({"messages": [*HELLO, ANSWER], "tools": [TOOL]}, None),
    ],
)
def test_the_prompt_of_a_record(record: dict[str, Any], expected: tuple[Any, ...] | None) -> None:
    prompt = prompt_of(parse_record(json.dumps(record).encode()))
    assert prompt == (expected and ExamplePrompt(*expected))


def test_the_playground_refuses_as_the_api_does(browser: httpx.Client, tenant: Tenant) -> None:
    sent = headers(browser)
    question = {"model": tenant.base_model, "messages": HELLO}
    waiting = browser.post(ASK, json=question, headers=sent)  # no worker here loads it
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "model_loading")
    assert waiting.headers["retry-after"] == "2"
    unknown = browser.post(ASK, json=question | {"model": "nothing"}, headers=sent)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    hot = browser.post(ASK, json=question | {"temperature": 3}, headers=sent)
    assert (hot.status_code, hot.json()["error"]["param"]) == (400, "temperature")
    twice = browser.post(ASK, content='{"model": "a", "model": "b"}', headers=sent)
    assert twice.status_code == 400
    large = browser.post(ASK, json=question | {"user": "a" * 2**20}, headers=sent)
    assert large.status_code == 413


def test_the_playground_answers_its_own_page_only(browser: httpx.Client, tenant: Tenant) -> None:
    question = {"model": tenant.base_model, "messages": HELLO}
    sent = headers(browser)
    for forged in (
        SAME_SITE,
        SAME_SITE | {"x-form-token": "guessed"},
        sent | {"sec-fetch-site": "cross-site"},
    ):
        assert browser.post(ASK, json=question, headers=forged).status_code == 403
    with httpx.Client(base_url=tenant.api.url, verify=False) as stranger:
        assert stranger.post(ASK, json=question, headers=sent).status_code == 401
    bearer = {"authorization": f"Bearer {tenant.key}"}
    with httpx.Client(base_url=tenant.api.url, verify=False, headers=bearer) as client:
        assert client.post(ASK, json=question, headers=sent).status_code == 401
    cookie = {"cookie": f"falqon_session={browser.cookies['falqon_session']}"}
    answer = httpx.post(
        f"{tenant.api.url}/v1/chat/completions", json=question, headers=cookie, verify=False
    )
    assert answer.status_code == 401
