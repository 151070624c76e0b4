"""Batches on an engine that a worker loads: their cost, and their place behind other requests."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from openai.types import Batch as ClientBatch
from sqlalchemy import delete, select

from app.keys.service import add_key
from app.models import Batch, PriceOverride, QuestionDay, Scope, UsageDay
from app.prices import service as prices
from app.prices.schemas import Override
from tests.support.api import Api, Tenant
from tests.support.waiting import wait_for
from worker.context import WorkerContext
from worker.operations.batch import BatchHandler

BASE = "falqon-tiny"
CHAT = "/v1/chat/completions"


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    """A project without the figures of another test's batch."""
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


@pytest.fixture
def handler(api: Api) -> Iterator[BatchHandler]:
    event = threading.Event()
    yield BatchHandler(WorkerContext(api.settings, api.database, api.storage, "answers", event))
    event.set()


@pytest.fixture
def expensive(api: Api) -> Iterator[None]:
    """A device of which a second costs a dollar."""
    with api.database.transaction() as session:
        session.add(PriceOverride(device="cpu", usd_per_device_hour="3600", source="ours"))
    yield
    with api.database.transaction() as session:
        session.execute(delete(PriceOverride))


def create(tenant: Tenant, key: str, *texts: str, **body: Any) -> ClientBatch:
    client = tenant.client_with(key)
    requests = [
        {
            "custom_id": str(i),
            "method": "POST",
            "url": CHAT,
            "body": {"model": BASE, "messages": [{"role": "user", "content": text}]} | body,
        }
        for i, text in enumerate(texts)
    ]
    content = "\n".join(map(json.dumps, requests)).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


@pytest.mark.usefixtures("expensive")
def test_a_batch_is_usage_of_its_key_and_ends_with_the_day_of_an_agent(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    with api.database.transaction() as session:
        budget = Decimal("0.5")
        key, secret = add_key(
            session, tenant.project_id, "agent", Scope.AGENT, daily_budget_usd=budget
        )
    batch = create(tenant, secret, *map(str, range(200)), max_tokens=100, temperature=1.0)
    handler.poll()
    done = tenant.client.batches.retrieve(batch.id)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert [error.code for error in done.errors.data] == ["budget_exhausted"]
    counts = done.request_counts
    assert counts is not None
    assert counts.completed + counts.failed == counts.total == 200
    assert counts.completed > 0
    with api.database.read() as session:
        usage = select(UsageDay).where(UsageDay.job_id == batch.id)
        (day,) = session.scalars(usage).all()
    assert (day.project_id, day.key_id, day.base_model_id) == (tenant.project_id, key.id, BASE)
    assert day.cost > budget
    again = tenant.http.post(
        "/v1/batches",
        json={"input_file_id": batch.input_file_id, "endpoint": CHAT, "completion_window": "24h"},
        headers={"authorization": f"Bearer {secret}"},
    )
    assert (again.status_code, again.json()["error"]["code"]) == (429, "insufficient_quota")


@pytest.mark.usefixtures("expensive")
def test_answers_of_a_batch_keep_the_price_that_stood_when_they_were_given(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    with api.database.transaction() as session:
        _, secret = add_key(session, tenant.project_id, "asks", Scope.WRITE)
    batch = create(tenant, secret, *map(str, range(300)), max_tokens=100, temperature=1.0)
    thread = threading.Thread(target=handler.poll)
    thread.start()

    def charged() -> tuple[float, Decimal] | None:
        with api.database.read() as session:
            row = session.get_one(Batch, batch.id)
        return None if row.cost is None else (row.seconds, row.cost)

    wait_for(charged, what="the answers have a cost")
    cheap = Override(device="cpu", usd_per_device_hour=Decimal("0.0001"), source="ours")
    with api.database.transaction() as session:
        prices.replace(session, [cheap])
    before = charged()
    thread.join(600)
    after = charged()
    assert before is not None
    assert after is not None
    assert tenant.client.batches.retrieve(batch.id).status == "completed"
    assert after[0] > before[0]
    assert before[1] <= after[1] < before[1] / Decimal(before[0]) * Decimal(after[0])
    with api.database.read() as session:
        (day,) = session.scalars(select(UsageDay).where(UsageDay.job_id == batch.id))
    assert day.cost == after[1]


def test_a_batch_asks_as_the_api_does_beside_other_requests(
    api: Api, tenant: Tenant, handler: BatchHandler
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    # Before its arguments a call may have 132 characters of space; one that is cut there is a text.
    more = {"max_tokens": 200, "tools": [tool], "tool_choice": "required", "n": 2}
    batch = create(tenant, tenant.key, "Two?", **more)
    question = {"model": BASE, "messages": [{"role": "user", "content": "Count."}]}
    live = question | {"max_tokens": 60, "ignore_eos": True}
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(tenant.http.post, CHAT, json=live) for _ in range(12)]
        handler.poll()
        assert all(answer.result().status_code == 200 for answer in answers)
    done = tenant.client.batches.retrieve(batch.id)
    assert (done.status, done.error_file_id) == ("completed", None)
    assert done.output_file_id is not None
    (line,) = tenant.client.files.content(done.output_file_id).text.splitlines()
    choices = json.loads(line)["response"]["body"]["choices"]
    calls = [choice["message"]["tool_calls"][0]["function"]["name"] for choice in choices]
    assert calls == ["f", "f"]
    assert done.usage is not None
    assert 0 < done.usage.output_tokens <= 400
    with api.database.read() as session:
        mine = (QuestionDay.project_id == tenant.project_id, QuestionDay.source == "batch")
        (day,) = session.scalars(select(QuestionDay).where(*mine))
    assert (day.requests, day.input_tokens, day.output_tokens) == (
        1,
        done.usage.input_tokens,
        done.usage.output_tokens,
    )
