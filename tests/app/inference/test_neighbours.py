"""Projects that share an engine neither break, delay nor observe one another."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from anyio.to_thread import run_sync
from sqlalchemy import update

from app.models import Engine, Model
from tests.support.api import PATIENCE, Api, Tenant
from tests.support.waiting import wait_for

MODEL = "falqon-tiny"
HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS = {"0": -100, "1": -100, "2": -100}  # without the tokens that end an answer
WRITTEN = "llamacpp:tokens_predicted_total "
TOKENS_OF_A_TURN = 400  # of each of the engine's four answers at once


@pytest.fixture
def neighbour(api: Api) -> Iterator[Tenant]:
    neighbour = Tenant(api)
    yield neighbour
    neighbour.http.close()


def engine_of(api: Api) -> Engine:
    with api.database.read() as session:
        return session.get_one(Engine, (MODEL, 0))


def num_tokens(engine: Engine) -> float:
    """Return how many tokens the engine has written in answers that have ended."""
    headers = {"authorization": f"Bearer {engine.token}"}
    text = httpx.get(f"{engine.address}/metrics", headers=headers).text
    (line,) = [line for line in text.splitlines() if line.startswith(WRITTEN)]
    return float(line.removeprefix(WRITTEN))


@contextmanager
def belonging_to(api: Api, project_id: str) -> Iterator[None]:
    """Make the base model one of the project's own."""
    statement = update(Model).where(Model.id == MODEL)
    with api.database.transaction() as session:
        session.execute(statement.values(project_id=project_id))
    try:
        yield
    finally:
        with api.database.transaction() as session:
            session.execute(statement.values(project_id=None))


def tenant_http(tenant: Tenant) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=tenant.api.url, headers=tenant.http.headers, timeout=PATIENCE, verify=False
    )


def test_long_answers_beside_it_do_not_end_an_answer(tenant: Tenant, neighbour: Tenant) -> None:
    question = {"model": MODEL, "messages": HELLO, "logit_bias": ENDLESS, "stream": True}
    long = neighbour.client.chat.completions.create(n=3, max_tokens=1900, **question)
    next(iter(long))
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = tenant.client.chat.completions.create(max_tokens=700, **options, **question)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == 700
    assert {chunk.choices[0].finish_reason for chunk in long if chunk.choices} == {None, "length"}


def test_a_flood_delays_others_by_a_turn(api: Api, tenant: Tenant, neighbour: Tenant) -> None:
    """Measured in what the engine writes meanwhile, however busy the machine is."""
    many = {"model": MODEL, "prompt": ["Hello"] * 64, "n": 4, "max_tokens": TOKENS_OF_A_TURN}
    few = {"model": MODEL, "prompt": "Hello", "max_tokens": 4}
    engine = engine_of(api)

    async def flood() -> float:
        async with tenant_http(neighbour) as flooding, tenant_http(tenant) as other:
            body = many | {"logit_bias": ENDLESS}
            tasks = [
                asyncio.create_task(flooding.post("/v1/completions", json=body)) for _ in range(4)
            ]
            before = await run_sync(num_tokens, engine)
            while await run_sync(num_tokens, engine) == before:
                await asyncio.sleep(0.05)
            before = await run_sync(num_tokens, engine)
            assert (await other.post("/v1/completions", json=few)).status_code == 200
            written = await run_sync(num_tokens, engine) - before
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return written

    # The engine writes on while a busy machine reads its figures, thousands of tokens a second, so
    # the bound is a share of the flood: in its queue the answer would wait for all of it.
    whole_flood = 4 * 64 * 4 * TOKENS_OF_A_TURN
    written = asyncio.run(flood())
    assert written < whole_flood / 20


def test_a_prompt_of_another_project_cannot_be_guessed(
    api: Api, tenant: Tenant, neighbour: Tenant
) -> None:
    def prompt(word: str) -> str:
        return f"A letter to my doctor about his diagnosis: {word}. Please write it kindly."

    question = {"model": MODEL, "max_tokens": 2}
    neighbour.client.completions.create(**question, prompt=prompt("gout"))
    for word in ("asthma", "gout"):
        for stream in (False, True):
            options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            body = question | options | {"prompt": prompt(word)}
            answer = tenant.http.post("/v1/completions", json=body)
            assert '"prompt_tokens"' in answer.text
            assert "cache" not in answer.text
    engine = engine_of(api)
    headers = {"authorization": f"Bearer {engine.token}"}
    slots = httpx.get(f"{engine.address}/slots", headers=headers).json()
    assert sum("id_task" in slot for slot in slots) > 0
    assert all(slot.get("n_prompt_tokens_cache", 0) == 0 for slot in slots), "none was reused"


def test_a_project_reuses_its_own_prompts(api: Api, tenant: Tenant) -> None:
    question = {"model": MODEL, "max_tokens": 2, "prompt": "A letter that is sent once more. " * 9}

    def cached_tokens() -> int:
        usage = tenant.client.completions.create(**question).usage
        return usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0

    cached_tokens()
    assert cached_tokens() == 0
    with belonging_to(api, tenant.project_id):
        wait_for(lambda: cached_tokens() > 50, what="what a second ago was every project's")
    wait_for(lambda: cached_tokens() == 0, what="nothing is reused of what others may have asked")
