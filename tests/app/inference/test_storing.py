"""Answers that a request asks to store: kept in projects that keep them, and nowhere else."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from prometheus_client import REGISTRY
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from app.base.database import Database
from app.models import StoredAnswer
from app.stored_answers import queue as queues
from app.stored_answers import writer
from app.stored_answers.queue import AnswerQueue
from app.stored_answers.writer import answer_queue
from tests.support.answers import keep_answers, new_answer
from tests.support.api import Api, Tenant
from tests.support.waiting import wait_for

MODEL = "falqon-tiny"
HELLO = [{"role": "user", "content": "Hello"}]
QUESTION: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 4, "temperature": 0}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def keeping(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    keep_answers(tenant)
    yield tenant
    tenant.http.close()


def num_stored(api: Api, tenant: Tenant) -> int:
    own = StoredAnswer.project_id == tenant.project_id
    with api.database.read() as session:
        return session.scalar(select(func.count()).where(own)) or 0


def stored_stream(client: OpenAI, **fields: Any) -> tuple[str, str]:
    """Stream an answer that is stored; return its id and its text."""
    chunks = list(
        client.chat.completions.create(
            **QUESTION | fields, store=True, stream=True, metadata={"a": "b"}
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    texts = [each.choices[0].delta.content or "" for each in chunks if each.choices]
    return chunks[0].id, "".join(texts)


def test_whole_and_streamed_answers_are_stored_as_they_were_given(keeping: Tenant) -> None:
    stored = keeping.client.chat.completions
    whole = stored.create(**QUESTION, store=True, metadata={"a": "b"})
    id_, text = stored_stream(keeping.client, stream_options={"include_usage": True})
    assert text == whole.choices[0].message.content
    for answer_id in (whole.id, id_):
        kept = stored.retrieve(answer_id)
        assert isinstance(kept, ChatCompletion)
        assert kept.choices[0].message.content == text
        assert kept.choices[0].finish_reason == "length"
        assert (kept.model, kept.usage, kept.metadata) == (MODEL, whole.usage, {"a": "b"})
    stored.create(**QUESTION)
    assert [each.id for each in stored.list()] == [whole.id, id_], "only those that say store"


def test_calls_are_stored_from_streams_too(keeping: Tenant) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    fields = {"tools": tools, "tool_choice": "required", "max_tokens": 40}
    id_, _ = stored_stream(keeping.client, **fields)
    (call,) = keeping.client.chat.completions.retrieve(id_).choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments), dict)


def test_a_project_that_keeps_none_keeps_not_a_byte(api: Api) -> None:
    tenant = Tenant(api)
    whole = tenant.http.post("/v1/chat/completions", json=QUESTION | {"store": True})
    assert whole.headers["x-falqon-ignored"] == "store"
    stored_stream(tenant.client)
    wait_for(lambda: not api.app.state.answer_queue)
    assert num_stored(api, tenant) == 0
    assert not whole.json()["id"].startswith("chatcmpl-01"), "the engine's own id"
    tenant.http.close()


def test_a_cut_stream_is_not_stored(api: Api, keeping: Tenant) -> None:
    body = QUESTION | {"store": True, "stream": True, "max_tokens": 400, "logit_bias": {"0": -100}}
    with keeping.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    wait_for(lambda: not api.app.state.answer_queue)
    assert num_stored(api, keeping) == 0


def not_stored(reason: str) -> float:
    labels = {"reason": reason}
    return REGISTRY.get_sample_value("falqon_answers_not_stored_total", labels) or 0.0


def test_what_the_queue_cannot_take_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_ANSWERS", 2)
    before = not_stored("queue_full"), not_stored("too_large")
    queue = AnswerQueue()
    for _ in range(3):
        queue.add(new_answer("proj_a"))
    queue.add(new_answer("proj_a", "a" * queues.MAX_ANSWER_BYTES))
    assert len(queue) == 2
    assert (not_stored("queue_full"), not_stored("too_large")) == (before[0] + 1, before[1] + 1)


def test_answers_wait_for_a_database_that_is_away(
    api: Api, keeping: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose result is lost is repeated, and one answer that fails keeps no other back."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    written = writer.store
    outages = iter(["before", "after"])

    def store_in_an_outage(database: Database, answers: Any) -> None:
        outage = next(outages, None)
        if outage == "after":
            written(database, answers)
        if outage is not None:
            raise OperationalError("COMMIT", None, Exception("gone"))
        written(database, answers)

    monkeypatch.setattr(writer, "store", store_in_an_outage)
    before = not_stored("failed")

    async def run() -> None:
        async with answer_queue(api.database) as queue:
            queue.add(new_answer(keeping.project_id))
            queue.add(new_answer("proj_missing"))
            queue.add(new_answer(keeping.project_id))
            while queue:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert num_stored(api, keeping) == 2
    assert not_stored("failed") == before + 1
