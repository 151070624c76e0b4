"""Requests that name an alias are answered by what it stands for at that moment."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

from app.catalogue.importer import add_base_model
from app.inference.known_aliases import choose
from app.models.alias import AliasTarget, AliasTargets
from tests.support.api import Api, Tenant
from tests.support.waiting import wait_for

MODEL = "falqon-tiny"
OTHER = "falqon-tiny-2"
HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS = {"0": -100, "1": -100, "2": -100}
NUM_STREAMS = 50


@pytest.fixture(scope="module", autouse=True)
def other_model(api: Api, tenant: Tenant) -> Iterator[None]:
    """A second model that is loaded."""
    add_base_model(api.database, api.storage, api.settings, OTHER, "builtin:falqon-tiny")
    ask(tenant.client, OTHER)
    yield
    tenant.http.delete("/v1/aliases/support")


def ask(client: OpenAI, model: str, user: str | None = None) -> str:
    """Return the model that has answered."""
    options = {} if user is None else {"user": user}
    return client.completions.create(model=model, prompt="One", max_tokens=1, **options).model


def test_a_name_switches_under_streams_and_back(tenant: Tenant) -> None:
    tenant.http.post("/v1/aliases", json={"name": "support", "model": MODEL})

    def stream(_number: int) -> tuple[str, str | None]:
        chunks = tenant.client.chat.completions.create(
            model="support", messages=HELLO, max_tokens=40, logit_bias=ENDLESS, stream=True
        )
        *_, last = chunks
        return last.model, last.choices[0].finish_reason

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        streams = [pool.submit(stream, number) for number in range(NUM_STREAMS)]
        wait_for(lambda: any(each.done() for each in streams))
        tenant.http.post("/v1/aliases", json={"name": "support", "model": OTHER})
        wait_for(lambda: ask(tenant.client, "support") == OTHER)
        ends = [each.result() for each in streams]
    assert {reason for _, reason in ends} == {"length"}
    assert tenant.http.post("/v1/aliases/support/rollback").status_code == 200
    wait_for(lambda: ask(tenant.client, "support") == MODEL)


def test_a_share_that_grows_keeps_its_users() -> None:
    random.seed(0)
    users = [f"user {i}" for i in range(1000)]
    before: set[str] = set()
    for weight in (5, 20, 50):
        canary = AliasTarget(model="new", weight=weight)
        targets = AliasTargets(models=[canary, AliasTarget(model="old", weight=100 - weight)])
        now = {user for user in users if choose(targets, "support", user) == "new"}
        assert before < now
        assert len(now) == pytest.approx(10 * weight, rel=0.3)
        before = now
        without_key = [choose(targets, "support", None) for _ in users]
        assert without_key.count("new") == pytest.approx(10 * weight, abs=60)


def test_a_user_stays_with_a_model_of_a_split_name(tenant: Tenant) -> None:
    split = [{"model": OTHER, "weight": 1}, {"model": MODEL, "weight": 1}]
    tenant.http.post("/v1/aliases", json={"name": "split", "models": split})
    users = [f"user {i}" for i in range(16)]
    first = [ask(tenant.client, "split", user) for user in users]
    assert set(first) == {MODEL, OTHER}
    assert first == [ask(tenant.client, "split", user) for user in users]

    def counted() -> bool:
        rows = tenant.http.get("/v1/aliases/split/usage").json()["data"]
        counts = Counter({row["id"]: row["requests"] for row in rows})
        return counts.total() == 32 and set(counts) == {MODEL, OTHER}

    wait_for(counted)
    tenant.http.delete("/v1/aliases/split")
