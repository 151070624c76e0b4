"""Tokens of questions on the bill of their project, by key, model and day."""

import csv
import io
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from app.base.settings import TokenPrice
from app.models import Engine, QuestionDay
from app.usage import questions
from app.usage.questions import QuestionCount, QuestionCounts, QuestionKey
from tests.support.api import Api, Tenant
from tests.support.waiting import wait_for

MODEL = "falqon-tiny"
HELLO = [{"role": "user", "content": "Hello"}]
PRICE = TokenPrice(input=Decimal("0.050"), output=Decimal("0.201"))


@pytest.fixture(scope="module")
def relay(api: Api, tenant: Tenant) -> Iterator[Api]:
    """Another API process, with prices, that asks the engine of the first one's worker."""
    tenant.client.completions.create(model=MODEL, prompt="One", max_tokens=1)  # has it loaded
    with api.database.read() as session:
        engine = session.get_one(Engine, (MODEL, 0))
    relay = Api(
        api.settings.resolved_database_url,
        api.settings.data_dir,
        engine_url=engine.address,
        engine_key=engine.token,
        token_prices={"*": PRICE},
    )
    yield relay
    relay.stop()


@pytest.fixture
def priced(relay: Api) -> Iterator[Tenant]:
    tenant = Tenant(relay)
    yield tenant
    tenant.http.close()


def counted(tenant: Tenant, num_requests: int) -> Any:
    """Return the sums of the project once so many requests are counted."""
    columns = ("requests", "input_tokens", "output_tokens", "cost")
    sums = [func.sum(getattr(QuestionDay, name)) for name in columns]
    mine = select(*sums).where(QuestionDay.project_id == tenant.project_id)

    def read() -> Any:
        with tenant.api.database.read() as session:
            row = session.execute(mine).one()
        return row if row[0] == num_requests else None

    return wait_for(read, what="the requests are counted")


def since() -> dict[str, Any]:
    return {"start_time": int(time.time()) - 86_400, "limit": 3}


def test_questions_are_billed_as_the_engine_counts_them(priced: Tenant) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 8}
    usages = [priced.client.chat.completions.create(**asked).usage]
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = priced.client.chat.completions.create(**asked, **options)
    usages.append(last.usage)
    list(priced.client.chat.completions.create(**asked, stream=True))
    response = priced.client.responses.create(model=MODEL, input="Hello", max_output_tokens=16)
    assert response.usage is not None
    colleague = Tenant(priced.api, project_id=priced.project_id)
    usages.append(
        colleague.client.completions.create(model=MODEL, prompt="One", max_tokens=2).usage
    )
    refused = {"model": MODEL, "prompt": "One " * 3000}
    assert priced.http.post("/v1/completions", json=refused).status_code == 400
    _, read, written, cost = counted(priced, 5)
    known = [usage for usage in usages if usage is not None]
    assert len(known) == 3
    # The stream without usage read the same.
    same = known[0].prompt_tokens
    expected = sum(usage.prompt_tokens for usage in known) + same + response.usage.input_tokens
    assert read == expected
    assert written >= sum(usage.completion_tokens for usage in known)
    exact = (PRICE.input * int(read) + PRICE.output * int(written)) / 1_000_000
    assert cost == exact

    client = OpenAI(
        base_url=priced.client.base_url, api_key="", admin_api_key=priced.key, max_retries=0
    )
    days = client.admin.organization.usage.completions(
        **since(), group_by=["model", "api_key_id"]
    ).data
    results: list[Any] = [result for day in days for result in day.results]
    assert {result.model for result in results} == {MODEL}
    assert sorted(result.num_model_requests for result in results) == [1, 4]
    assert sum(result.input_tokens for result in results) == read
    costs = client.admin.organization.usage.costs(**since()).data
    charged: list[Any] = [result for day in costs for result in day.results]
    assert sum(result.amount.value for result in charged) == pytest.approx(float(exact))
    table = priced.http.get("/v1/usage", params=since() | {"format": "csv"}).text
    lines = list(csv.DictReader(io.StringIO(table)))
    assert sum(Decimal(line["cost_usd"]) for line in lines) == exact
    assert "e" not in "".join(line["cost_usd"] for line in lines).lower()
    colleague.http.close()


def test_an_echo_without_an_answer_counts_its_prompt_once(priced: Tenant) -> None:
    question: dict[str, Any] = {"model": MODEL, "prompt": "One, two " * 40, "max_tokens": 0}
    echo = priced.client.completions.create(**question, echo=True, logprobs=0)
    assert echo.usage is not None
    _, read, written, _ = counted(priced, 1)
    assert read + written == echo.usage.total_tokens
    priced.client.completions.create(**question, echo=True)
    assert counted(priced, 2)[1] > read, "of one that is no question to the engine, the estimate"


def test_another_project_sees_none_of_it(priced: Tenant) -> None:
    priced.client.completions.create(model=MODEL, prompt="One", max_tokens=1)
    counted(priced, 1)
    stranger = Tenant(priced.api)
    for path in ("/v1/organization/usage/completions", "/v1/usage", "/v1/organization/costs"):
        days = stranger.http.get(path, params=since()).raise_for_status().json()["data"]
        assert [day["results"] for day in days if day["results"]] == [], path
    stranger.http.close()


def test_a_client_that_leaves_has_asked(priced: Tenant) -> None:
    endless = {"max_tokens": 1000, "logit_bias": {"0": -100, "1": -100, "2": -100}}
    question: dict[str, Any] = {"model": MODEL, "prompt": "One " * 350} | endless
    stream = priced.client.completions.create(**question, stream=True)
    next(iter(stream))
    stream.close()
    _, read, written, _ = counted(priced, 1)
    assert read > 250
    assert written >= 1
    with pytest.raises(httpx.TimeoutException):
        priced.http.post("/v1/completions", json=question | {"n": 64}, timeout=1)
    assert counted(priced, 2)[1] > 500


def test_counts_wait_for_a_database_that_is_away(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = QuestionCounts(api.settings)
    key = QuestionKey(tenant.project_id, "key_waits", MODEL)
    counts.add(key, QuestionCount(1, 10, 5))

    def fail(*_arguments: object) -> None:
        raise OperationalError("INSERT", {}, Exception("the server is away"))

    with monkeypatch.context() as away:
        away.setattr(questions, "add", fail)
        with pytest.raises(OperationalError):
            counts.write(api.database)
    counts.add(key, QuestionCount(1, 1, 1))
    for _ in range(2):  # the second time there is nothing to write
        counts.write(api.database)
    with api.database.read() as session:
        (day,) = session.scalars(select(QuestionDay).where(QuestionDay.key_id == "key_waits"))
    assert (day.requests, day.input_tokens, day.output_tokens) == (2, 11, 6)
    assert (day.base_model_id, day.cost) == (MODEL, Decimal(0))
