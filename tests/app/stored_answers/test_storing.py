"""Answers that a request asks to store: kept in projects that keep them, and nowhere else."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
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
from tests.support.scripted_engine import scripted_engine
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("storing")
    with scripted_engine() as url:
        api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, engine_url=url)
        yield api
        api.stop()


@pytest.fixture
def keeping(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    keep_answers(tenant)
    yield tenant
    tenant.http.close()


def question(tenant: Tenant, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": tenant.base_model, "messages": [{"role": "user", "content": text}]} | fields


def num_stored(api: Api, tenant: Tenant) -> int:
    own = StoredAnswer.project_id == tenant.project_id
    with api.database.read() as session:
        return session.scalar(select(func.count()).where(own)) or 0


def stored_stream(tenant: Tenant, text: str = "Hello", **fields: Any) -> tuple[str, str]:
    """Stream an answer that is stored; return its id and its text."""
    fields |= {"store": True, "metadata": {"a": "b"}, "stream": True}
    chunks = list(tenant.client.chat.completions.create(**question(tenant, text, **fields)))
    assert len({chunk.id for chunk in chunks}) == 1
    texts = [each.choices[0].delta.content or "" for each in chunks if each.choices]
    return chunks[0].id, "".join(texts)


def test_whole_and_streamed_answers_are_stored_as_they_were_given(keeping: Tenant) -> None:
    stored = keeping.client.chat.completions
    whole = stored.create(**question(keeping), store=True, metadata={"a": "b"})
    id_, text = stored_stream(keeping, stream_options={"include_usage": True})
    assert text == whole.choices[0].message.content == "Hello 1"
    for answer_id in (whole.id, id_):
        kept = stored.retrieve(answer_id)
        assert isinstance(kept, ChatCompletion)
        assert kept.choices[0].message.content == text
        assert kept.choices[0].finish_reason == "stop"
        assert (kept.model, kept.metadata) == (keeping.base_model, {"a": "b"})
        assert kept.usage == whole.usage
    stored.create(**question(keeping))
    assert [each.id for each in stored.list()] == [whole.id, id_], "only those that say store"


def test_calls_and_thoughts_are_stored_from_streams_too(keeping: Tenant) -> None:
    stored = keeping.client.chat.completions
    for script in ("call", "think"):
        id_, _ = stored_stream(keeping, script)
        whole = stored.create(**question(keeping, script))
        assert stored.retrieve(id_).choices[0].message == whole.choices[0].message


def test_a_project_that_keeps_none_keeps_not_a_byte(api: Api) -> None:
    tenant = Tenant(api)
    whole = tenant.http.post("/v1/chat/completions", json=question(tenant, store=True))
    assert whole.headers["x-falqon-ignored"] == "store"
    id_, _ = stored_stream(tenant)
    wait_for(lambda: not api.app.state.answer_queue)
    assert num_stored(api, tenant) == 0
    assert (whole.json()["id"], id_) == ("chatcmpl-x", "chatcmpl-x"), "the engine's own"
    tenant.http.close()


def test_a_broken_stream_is_not_stored(api: Api, keeping: Tenant) -> None:
    with pytest.raises(openai.APIError, match="out of luck"):
        stored_stream(keeping, "break")
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
