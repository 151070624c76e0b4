import httpx
from sqlalchemy import update

from app.models import Trial
from app.web.text import model_page
from tests.browser import scene
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token


def ask(browser: httpx.Client, here: str, **form: str) -> str:
    return browser.post(f"{here}/try", data={"csrf": token(browser.get("/")), **form}, headers=SAME_SITE, follow_redirects=True).text


def test_a_prompt_is_asked_and_both_answers_stand_side_by_side(browser: httpx.Client, tenant: Tenant) -> None:
    made = scene.scene(tenant)
    here = model_page(made.model)
    assert f'href="{here}/try"' in browser.get(here).text
    page = ask(browser, here, prompt="Why?\r\nSay it.", max_tokens="16")
    assert "waiting for a worker" in page
    assert f'hx-sse:connect="{here}/try/live"' in page
    (trial, _) = tenant.http.get(f"/v1/models/{made.model}/trials").json()["data"]
    assert (trial["prompt"], trial["max_tokens"]) == ("Why?\nSay it.", 16)

    with tenant.api.database.transaction() as session:
        values = {"status": "completed", "answer": "Because <b>.", "base_answer": "Whatever."}
        session.execute(update(Trial).where(Trial.id == trial["id"]).values(**values))
    page = browser.get(f"{here}/try").text
    assert "Because &lt;b&gt;." in page
    assert page.index("Because") < page.index("Whatever.")
    assert "hx-sse:connect" not in page


def test_the_stream_brings_the_answers(browser: httpx.Client, tenant: Tenant) -> None:
    here = model_page(scene.scene(tenant).model)
    with browser.stream("GET", f"{here}/try/live") as stream:
        line = next(line for line in stream.iter_lines() if 'hx-target="#trials"' in line)
    assert line.startswith("data: <hx-partial")


def test_what_cannot_be_asked_is_said(browser: httpx.Client, tenant: Tenant) -> None:
    here = model_page(scene.scene(tenant).model)
    assert "prompt: " in ask(browser, here, prompt="", max_tokens="16")
    assert "max_tokens: " in ask(browser, here, prompt="Why?", max_tokens="9999")
    assert browser.get("/models/nothing/try").status_code == 404
