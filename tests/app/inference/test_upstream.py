"""Names that stand for models of an upstream such as OpenAI: questions go there as they were
written, answers are passed on and kept, and a name switches to a model here.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.aliases import repository
from app.aliases import service as aliases
from app.base.ids import new_id
from app.inference import proxy
from app.models import DEFAULT_PROJECT_ID, Scope
from app.models.alias import AliasTarget, AliasTargets
from tests.app.switches.conftest import ask as ask_to_switch
from tests.app.switches.conftest import make_result, models_of, put, read
from tests.support.answers import keep_answers
from tests.support.api import Api, Tenant
from tests.support.model_engine import model_engine
from tests.support.pages import sign_in
from tests.support.upstream import KEY, WORDS, Refusal, Upstream
from tests.support.waiting import wait_for
from worker.context import WorkerContext
from worker.operations.batch import BatchHandler
from worker.operations.evaluation import EvaluationHandler

NAME = "ft:gpt-4o-mini-2024-07-18:acme::abc123"
THERE = f"upstream:{NAME}"
HELLO: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
TEXT = "".join(WORDS)
TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def api(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("upstream")
    there = {"upstream_url": upstream.url, "upstream_key": KEY}
    with model_engine() as engine:
        api = Api(f"sqlite:///{folder}/falqon.db", folder, engine_url=engine, **there)
        yield api
        api.stop()


@pytest.fixture
def tenant(api: Api, upstream: Upstream) -> Iterator[Tenant]:
    """The admin of the installation, whose names stand for models there."""
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    put(tenant, NAME, THERE)
    upstream.received.clear()
    yield tenant
    upstream.refusal = upstream.breaks_after = None
    tenant.limit(answer_storage=None)
    tenant.http.delete(f"/v1/aliases/{NAME}")
    tenant.http.close()


def ask(tenant: Tenant, **fields: Any) -> Any:
    client = tenant.client.with_options(max_retries=0)
    return client.chat.completions.create(**{"model": NAME, "messages": HELLO} | fields)


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_the_page_of_names_leads_to_no_model_of_the_upstream(tenant: Tenant) -> None:
    with httpx.Client(base_url=tenant.api.url, follow_redirects=True, verify=False) as browser:
        sign_in(browser, tenant)
        page = browser.get("/settings/aliases").text
    assert (THERE in page, "/models/upstream" in page) == (True, False)


def test_a_question_goes_on_as_it_was_written(tenant: Tenant, upstream: Upstream) -> None:
    sent = {
        "max_completion_tokens": 20,
        "prediction": {"type": "content", "content": "Four"},
        "service_tier": "flex",
        "tool_choice": "required",
        "tools": [TOOL],
        "top_p": 0,
        "user": "u-1",
        "verbosity": "low",
    }
    raw = tenant.client.chat.completions.with_raw_response.create(
        model=NAME, messages=HELLO, store=True, metadata={"team": "red"}, **sent
    )
    assert raw.headers.get("x-falqon-ignored") == "store", "this project keeps none"
    answer = raw.parse()
    assert answer.choices[0].message.tool_calls[0].function.name == "find"
    assert (answer.id, answer.model, answer.service_tier) == ("chatcmpl-upstream", NAME, "default")
    assert answer.usage.total_tokens == 10
    (received,) = upstream.received
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert received.body == sent | {"model": NAME, "messages": said}
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert tenant.key not in str(received)


def test_a_stream_comes_through_and_so_do_responses(tenant: Tenant, upstream: Upstream) -> None:
    assert text_of(ask(tenant, stream=True)) == TEXT
    *_, last = ask(tenant, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens == 3
    response = tenant.client.responses.create(model=NAME, input="Hello")
    assert response.output_text == TEXT
    assert upstream.received[-1].body["messages"] == [{"role": "user", "content": "Hello"}]


def test_several_choices_are_one_question_there(tenant: Tenant, upstream: Upstream) -> None:
    answer = ask(tenant, n=2, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 6)
    texts = ["", ""]
    usage = {"include_usage": True}
    *chunks, last = ask(tenant, n=2, seed=7, stream=True, stream_options=usage)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [TEXT, TEXT]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (7, 6)
    sent = [(received.body["n"], received.body["seed"]) for received in upstream.received]
    assert sent == [(2, 7), (2, 7)]


def test_answers_are_kept_where_the_project_keeps_any(tenant: Tenant) -> None:
    keep_answers(tenant)
    stored = tenant.client.chat.completions
    whole = ask(tenant, metadata={"kind": "whole"})
    chunks = list(ask(tenant, stream=True, metadata={"kind": "stream"}))
    ask(tenant, store=False, metadata={"kind": "none"})

    def kept() -> list[str]:
        return [answer.id for answer in stored.list(model=NAME)]

    wait_for(lambda: kept() == [whole.id, chunks[0].id])
    corrected = {"falqon": {"corrected": "Four."}}
    updated = stored.update(whole.id, metadata={"rating": "bad"}, extra_body=corrected)
    assert updated.choices[0].message.content == TEXT
    tenant.limit(answer_storage=None)
    put(tenant, "other", THERE)
    wait_for(lambda: tenant.http.get("/v1/aliases/other").status_code == 200)
    assert ask(tenant, model="other").id == "chatcmpl-upstream", "not kept: its own id"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (Refusal(401, json.dumps({"error": {"message": KEY, "code": "invalid_api_key"}}).encode()),
         401, "invalid_api_key"),
        (Refusal(400, json.dumps({"error": {"message": f"no {KEY}", "code": "bad"}}).encode()),
         400, "bad"),
        (Refusal(429, b'{"error": {"message": "slow", "code": "rate_limit_exceeded"}}',
                 {"retry-after-ms": "20"}), 429, "rate_limit_exceeded"),
        (Refusal(500, b"<html>"), 500, "refused_by_upstream"),
        (Refusal(503, b'{"error": "busy"}'), 503, "refused_by_upstream"),
        (Refusal(302, b"", {"location": "http://127.0.0.1:1/"}), 502, "refused_by_upstream"),
    ],
)  # fmt: skip
def test_a_refusal_keeps_its_status_and_no_key_comes_with_it(
    tenant: Tenant, upstream: Upstream, refusal: Refusal, status: int, code: str, stream: bool
) -> None:
    upstream.refusal = refusal
    with pytest.raises(openai.APIStatusError) as caught:
        ask(tenant, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert KEY not in caught.value.response.text
    expected = refusal.headers.get("retry-after-ms")
    assert caught.value.response.headers.get("retry-after-ms") == expected
    assert len(upstream.received) == 1, "it pays once"


def test_a_stream_that_breaks_is_an_error_and_is_not_kept(
    tenant: Tenant, upstream: Upstream
) -> None:
    keep_answers(tenant)
    upstream.breaks_after = 2
    with pytest.raises(openai.APIError) as caught:
        text_of(ask(tenant, stream=True, metadata={"kind": "broken"}))
    assert caught.value.code == "upstream_unavailable"

    def failed() -> bool:
        rows = tenant.http.get(f"/v1/aliases/{NAME}/usage").json()["data"]
        return any(row["errors"] for row in rows)

    wait_for(failed)
    assert list(tenant.client.chat.completions.list(metadata={"kind": "broken"})) == []


def test_an_upstream_that_is_silent_or_gone_has_a_code(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "RESPONSE_SECONDS", 0.5)
    upstream = Upstream()
    upstream.falls_silent = True
    folder = tmp_path_factory.mktemp("silent")
    api = Api(f"sqlite:///{folder}/falqon.db", folder, upstream_url=upstream.url)
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    try:
        put(tenant, NAME, THERE)
        outcomes = []
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                ask(tenant)
            outcomes.append((caught.value.status_code, caught.value.code))
            upstream.close()
    finally:
        tenant.http.close()
        api.stop()
    assert outcomes == [(504, "upstream_timeout"), (502, "upstream_unavailable")]


def test_only_the_admin_of_the_installation_lets_a_name_stand_for_it(tenant: Tenant) -> None:
    stranger = Tenant(tenant.api, Scope.ADMIN)
    body = {"name": "theirs", "model": THERE}
    assert stranger.http.post("/v1/aliases", json=body).status_code == 403
    for model in (THERE, NAME):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(stranger, model=model)
        assert caught.value.code == "model_not_found"
    writer = {"authorization": f"Bearer {tenant.new_key(Scope.WRITE)}"}
    split = [{"model": tenant.base_model, "weight": 1}, {"model": THERE, "weight": 3}]
    shared = {"name": NAME, "models": split}
    assert tenant.http.post("/v1/aliases", json=shared, headers=writer).status_code == 200
    split[1]["model"] = "upstream:gpt-5"
    assert tenant.http.post("/v1/aliases", json=shared, headers=writer).status_code == 403
    stranger.http.close()


def test_an_agent_s_key_spends_nothing_there(tenant: Tenant, upstream: Upstream) -> None:
    agent = tenant.client_with(tenant.new_key(Scope.AGENT))
    with pytest.raises(openai.PermissionDeniedError):
        agent.chat.completions.create(model=NAME, messages=HELLO)
    assert upstream.received == []


def test_a_batch_asks_no_upstream(tenant: Tenant, upstream: Upstream) -> None:
    body = {"model": NAME, "messages": HELLO}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    content = json.dumps(line).encode()
    file = tenant.client.files.create(file=("requests.jsonl", content), purpose="batch")
    batch = tenant.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    api = tenant.api
    BatchHandler(
        WorkerContext(api.settings, api.database, api.storage, "answers", threading.Event())
    ).poll()
    errors = tenant.client.batches.retrieve(batch.id).error_file_id
    assert b"upstream_not_batched" in tenant.client.files.content(errors or "").read()
    assert upstream.received == []


def test_a_name_switches_to_a_model_here_that_is_not_worse_and_back(
    tenant: Tenant, upstream: Upstream
) -> None:
    upstream.content = "four"
    api = tenant.api
    context = WorkerContext(api.settings, api.database, api.storage, "evaluates", threading.Event())
    bad = make_result(tenant, "bad").model
    good = make_result(tenant).model
    for model, status in ((bad, "kept"), (good, "switched")):
        switch_id = ask_to_switch(tenant, NAME, model=model)
        EvaluationHandler(context).poll()
        switch = read(tenant, NAME, switch_id)
        assert switch["status"] == status, switch
    assert {received.body["model"] for received in upstream.received} == {NAME}
    assert not any("chat_template_kwargs" in received.body for received in upstream.received)
    assert models_of(tenant, NAME) == {good: 1}
    wait_for(lambda: ask(tenant).model == good)
    writer = {"authorization": f"Bearer {tenant.new_key(Scope.WRITE)}"}
    tenant.http.post(f"/v1/aliases/{NAME}/rollback", headers=writer).raise_for_status()
    wait_for(lambda: ask(tenant).id == "chatcmpl-upstream")
    upstream.content = TEXT


def test_only_the_admin_of_the_installation_rolls_back_to_it(tenant: Tenant) -> None:
    name = new_id("gpt-")
    rollback = f"/v1/aliases/{name}/rollback"
    writer = {"authorization": f"Bearer {tenant.new_key(Scope.WRITE)}"}
    put(tenant, name, THERE)
    put(tenant, name, tenant.base_model)
    for version in (None, 1):
        body = {"version": version}
        assert tenant.http.post(rollback, json=body, headers=writer).status_code == 403
    assert models_of(tenant, name) == {tenant.base_model: 1}
    tenant.http.post(rollback, json={"version": 1}).raise_for_status()
    assert models_of(tenant, name) == {THERE: 1}, "the admin may"
    tenant.http.delete(f"/v1/aliases/{name}").raise_for_status()
    assert tenant.http.post(rollback, headers=writer).status_code == 403


def test_a_switch_is_taken_back_to_it_until_the_name_changes(tenant: Tenant) -> None:
    name = new_id("gpt-")
    rollback = f"/v1/aliases/{name}/rollback"
    writer = {"authorization": f"Bearer {tenant.new_key(Scope.WRITE)}"}
    put(tenant, name, "upstream:gpt-4")
    put(tenant, name, THERE)
    with tenant.api.database.transaction() as session:
        before = aliases.get_own(session, DEFAULT_PROJECT_ID, name)
        targets = AliasTargets(models=[AliasTarget(model=tenant.base_model)])
        aliases.move(session, before, targets, switch_id="switch", key_id=None)
    older = tenant.http.post(rollback, json={"version": 1}, headers=writer)
    assert older.status_code == 403
    another = new_id("base-")
    tenant.add_model(another, project_id=None)
    put(tenant, name, another)
    assert tenant.http.post(rollback, json={"version": 2}, headers=writer).status_code == 403
    assert tenant.http.post(rollback, json={"version": 3}, headers=writer).status_code == 200


def test_no_rollback_brings_it_back_where_no_upstream_is_configured(tmp_path: Path) -> None:
    api = Api(f"sqlite:///{tmp_path}/falqon.db", tmp_path)
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    try:
        with api.database.transaction() as session:
            for model, switch_id in ((THERE, None), (tenant.base_model, "switch")):
                targets = AliasTargets(models=[AliasTarget(model=model)])
                repository.add_version(session, DEFAULT_PROJECT_ID, NAME, targets, None, switch_id)
        answer = tenant.http.post(f"/v1/aliases/{NAME}/rollback")
    finally:
        tenant.http.close()
        api.stop()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "upstream_not_configured")


def test_the_name_is_a_model_of_the_list_and_by_itself(tenant: Tenant) -> None:
    (listed,) = [each for each in tenant.client.models.list() if each.id == NAME]
    assert listed.stands_for == [{"model": THERE, "weight": 1}]
    assert tenant.client.models.retrieve(NAME) == listed
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(model=NAME)
    assert caught.value.code == "model_not_found"


def test_embeddings_come_from_there(tenant: Tenant, upstream: Upstream) -> None:
    put(tenant, "text-embedding-3-small", "upstream:text-embedding-3-small")
    options: Any = {"model": "text-embedding-3-small", "dimensions": 2, "encoding_format": "float"}
    texts = ["a"] * 100
    raw = tenant.client.embeddings.with_raw_response.create(input=texts, **options)
    answer = raw.parse()
    assert len(answer.data) == 100
    assert answer.data[99].embedding == [0.5, 0.25]
    (received,) = upstream.received
    assert (received.path, received.headers["authorization"]) == ("/v1/embeddings", f"Bearer {KEY}")
    assert received.body == options | {"input": texts}
    upstream.received.clear()
    tokens = [[1, 2] * 100] * 1000  # as LangChain sends them
    options["dimensions"] = 1
    assert len(tenant.client.embeddings.create(input=tokens, **options).data) == 1000
    assert upstream.received[0].body["input"] == tokens
    upstream.refusal = Refusal(400, b'{"error": {"message": "too long", "code": "too_long"}}')
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.client.embeddings.create(input="a", **options)
    assert caught.value.code == "too_long"
    tenant.http.delete("/v1/aliases/text-embedding-3-small")
