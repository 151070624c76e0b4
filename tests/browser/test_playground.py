"""The playground with an engine that answers, with one that is not there, and with one that says
what must not be run.
"""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from app.catalogue.importer import ensure_tiny_model
from app.web.text import playground
from tests.browser.visit import SECONDS, Visits
from tests.support.api import Api, Tenant
from tests.support.echo_engine import COUNT, echo_engine
from tests.support.engines import engine_worker
from tests.support.hostile import PAYLOADS

MODEL = "falqon-tiny"
LOADED = 120 * SECONDS


@pytest.fixture(scope="module")
def echoing(api: Api) -> Iterator[Api]:
    """The same service with an engine that says again what it is asked."""
    with echo_engine() as url:
        relay = Api(api.settings.resolved_database_url, api.settings.data_dir, engine_url=url)
        yield relay
        relay.stop()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def answers(page: Page) -> list[str]:
    figures = page.locator("#turns figure:not(.expected) > p.text")
    return [text.replace("\r\n", "\n") for text in figures.all_text_contents()]


def test_a_conversation_with_a_model_that_has_to_be_loaded(visits: Visits, api: Api) -> None:
    ensure_tiny_model(api.database, api.storage, api.settings)
    tenant = Tenant(api)
    records = [
        {
            "messages": [
                {"role": "system", "content": "Count."},
                {"role": "user", "content": f"What follows {n}?"},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ]
        }
        for n in range(12)
    ]
    file = tenant.upload("".join(f"{json.dumps(record)}\n" for record in records).encode())
    job_id = tenant.job(training_file=file, validation_file=file).id
    model = f"ft:{MODEL}:acme::{tenant.project_id}"
    tenant.add_model(model, project_id=tenant.project_id, base=MODEL, job_id=job_id)
    page = visits.sign_in(api.url, tenant.key)
    page.goto(playground(model))
    expect(page.get_by_label("Model", exact=True)).to_have_value(model)
    page.get_by_label("Model", exact=True).select_option(MODEL)
    page.get_by_label("Compare with").select_option("none")
    page.get_by_label("Max tokens").fill("4")
    page.wait_for_url("**/playground?model=falqon-tiny&beside=")
    ask(page, "Hello")
    status = page.locator("#announcement")
    expect(status).to_contain_text("is loading; the next try is in 2 s")
    with engine_worker(api):
        expect(page.locator("#turns figure")).to_contain_text("4 tokens", timeout=LOADED)
        expect(status).to_contain_text("Answered: 4 tokens")
        with page.expect_request("**/v1/chat/completions") as second:
            ask(page, "More")
        assert [turn["content"] for turn in second.value.post_data_json["messages"]] == [
            "Hello",
            *answers(page)[:1],
            "More",
        ]
        expect(status).to_contain_text("Answered")


def test_an_answer_is_stopped_and_the_conversation_starts_over(
    visits: Visits, echoing: Api
) -> None:
    tenant = Tenant(echoing)
    page = visits.sign_in(echoing.url, tenant.key)
    page.goto(playground(tenant.base_model))
    page.get_by_label("Compare with").select_option("none")
    ask(page, COUNT)
    expect(page.locator("#turns figure > p.text")).to_contain_text("0 1 2")
    page.get_by_role("button", name="Stop").press("Enter")  # it moves as the answer grows
    expect(page.locator("#announcement")).to_have_text("Stopped.")
    expect(page.get_by_label("Message")).to_be_focused()
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("#turns article")).to_have_count(0)


def test_a_conversation_outlasts_another_model_and_a_reload_and_its_last_turn_is_edited(
    visits: Visits, echoing: Api
) -> None:
    tenant = Tenant(echoing)
    other = f"ft:{tenant.base_model}:acme::2"
    tenant.add_model(other, project_id=tenant.project_id)
    page = visits.sign_in(echoing.url, tenant.key)
    page.goto(playground(tenant.base_model))
    message = page.get_by_label("Message")
    message.press_sequentially("One")
    message.press("Shift+Enter")
    message.press_sequentially("line")
    ask(page, message.input_value())
    expect(page.locator("#announcement")).to_contain_text("Answered")
    page.get_by_label("Compare with").select_option(other)
    message.fill("Half a ")
    page.reload()
    expect(message).to_have_value("Half a ")
    assert answers(page) == ["One\nline"]
    with page.expect_request("**/v1/chat/completions") as asked:
        ask(page, "Two")
    assert [turn["content"] for turn in asked.value.post_data_json["messages"]] == [
        "One\nline",
        "One\nline",
        "Two",
    ]
    expect(page.locator("#turns [aria-busy]")).to_have_count(0)
    assert answers(page) == ["One\nline", "Two", "Two"]
    page.get_by_role("button", name="Edit").click()
    expect(message).to_have_value("Two")
    ask(page, "Three")
    expect(page.locator("#announcement")).to_contain_text("Answered")
    assert answers(page) == ["One\nline", "Three", "Three"]
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#announcement")).to_contain_text("Answered")
    assert answers(page) == ["One\nline", "Three", "Three"]
    page.get_by_role("button", name="Start over").click()
    page.reload()
    expect(page.locator("#turns article")).to_have_count(0)


def test_a_refused_question_can_be_asked_again(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(playground(tenant.base_model))
    refusal = {"error": {"message": "Too many requests.", "code": "rate_limit_exceeded"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, json=refusal))
    ask(page, "Hello")
    expect(page.locator("#turns .error")).to_have_text("Too many requests.")
    expect(page.get_by_label("Message")).to_have_value("Hello")


def test_prompts_of_the_job_two_models_and_the_code(visits: Visits, echoing: Api) -> None:
    tenant = Tenant(echoing)
    job_id = tenant.job(validation_file=tenant.upload()).id
    model = f"ft:{tenant.base_model}:acme::1"
    tenant.add_model(model, project_id=tenant.project_id, base=tenant.base_model, job_id=job_id)
    page = visits.sign_in(echoing.url, tenant.key)
    page.goto(playground(model))
    prompts = page.get_by_role("region", name="Validation prompts")
    prompts.get_by_role("button", name="Ask", exact=True).first.click()
    expect(page.locator("#announcement")).to_contain_text("Answered: 2 tokens")
    assert answers(page) == ["two and two?"] * 2
    figures = page.locator("#turns figcaption").all_text_contents()
    assert figures == [model, tenant.base_model, "Expected"]
    prompts.get_by_role("button", name="Run all").click()
    expect(page.locator("#turns article")).to_have_count(9)
    expect(page.locator("#turns [aria-busy]")).to_have_count(0)
    page.get_by_label("System prompt").fill('Say "no".')
    page.get_by_label("Stop sequences").fill("END\n\nSTOP")
    page.get_by_text("Copy as Python").click()
    code = page.locator("#code").text_content() or ""
    compile(code, "playground", "exec")
    for words in (
        f'base_url="{echoing.url}/v1"',
        f'model="{model}"',
        r'"content":"Say \"no\"."',
        'stop=["END","STOP"]',
        "temperature=0,",
    ):
        assert words in code
    page.get_by_label("Stop sequences").fill("a\nb\nc\nd\ne")
    ask(page, "Hello")
    expect(page.locator("#turns .error").first).to_contain_text("stop")


def test_an_answer_in_the_playground_is_shown_as_text(visits: Visits, echoing: Api) -> None:
    tenant = Tenant(echoing)
    tenant.add_model(PAYLOADS[0], project_id=tenant.project_id)
    page = visits.sign_in(echoing.url, tenant.key)
    page.goto(playground(PAYLOADS[0]))
    expected = [payload.strip().replace("\r\n", "\n") for payload in PAYLOADS[::6]]
    for payload in PAYLOADS[::6]:
        page.get_by_label("System prompt").fill(payload)
        ask(page, payload)
        expect(page.locator("#announcement")).to_contain_text("Answered")
    assert answers(page) == expected
    assert page.locator("#turns blockquote").all_text_contents() == expected
    assert page.locator("#turns details p").all_text_contents() == expected
    compile(page.locator("#code").text_content() or "", "playground", "exec")
    page.reload()
    expect(page.get_by_label("System prompt")).to_have_value(PAYLOADS[54].replace("\r\n", "\n"))
