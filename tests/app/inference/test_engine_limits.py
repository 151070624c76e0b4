"""The second wall: an engine that got past the first is held or ended by its limits of memory and
of computing without progress, and comes back.
"""

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.models import Engine
from tests.app.inference.test_hostile_questions import SCHEMAS, fields_of
from tests.support.api import Api, Tenant
from tests.support.backend import processes
from tests.support.waiting import wait_for
from worker.inference import memory, progress

MODEL = "falqon-tiny"
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
MIB = 2**20


def programs(api: Api) -> list[int]:
    return processes("worker.inference.llama_cpp", str(api.settings.data_dir.resolve()))


def reload(api: Api, tenant: Tenant) -> Engine:
    """Return a new engine, loaded with the limits that hold now."""
    for pid in programs(api):
        os.kill(pid, signal.SIGKILL)

    def is_loaded() -> bool:
        return tenant.http.post("/v1/chat/completions", json=QUESTION).status_code == 200

    wait_for(is_loaded, what="the engine is loaded again")
    with api.database.read() as session:
        return session.get_one(Engine, (MODEL, 0))


@pytest.fixture
def ended(api: Api) -> Iterator[None]:
    """Leave no engine with a test's limits to others."""
    yield
    for pid in programs(api):
        os.kill(pid, signal.SIGKILL)


def ask_directly(engine: Engine, seconds: float, **fields: Any) -> httpx.Response:
    """Ask past the API, which would refuse it."""
    return httpx.post(
        f"{engine.address}/v1/chat/completions",
        json=QUESTION | fields,
        headers={"authorization": f"Bearer {engine.token}"},
        timeout=seconds,
    )


@pytest.mark.usefixtures("ended")
def test_a_question_that_takes_memory_without_end_is_refused_by_the_kernel(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ENGINE_BYTES", 256 * MIB)
    engine = reload(api, tenant)
    before = programs(api)
    answer = ask_directly(engine, 30, **fields_of(SCHEMAS["items backwards"], is_tool=False))
    assert answer.status_code in (400, 500), answer.text
    assert tenant.http.post("/v1/chat/completions", json=QUESTION).status_code == 200
    assert programs(api) == before


@pytest.mark.usefixtures("ended")
def test_an_engine_that_computes_without_progress_is_ended_and_comes_back(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STALLED_CPU_SECONDS", 0.5)
    engine = reload(api, tenant)
    before = programs(api)
    opening = str(
        tenant.http.get(f"/v1/models/{MODEL}/artifacts/tokenizer.json").json()["model"]["vocab"][
            "["
        ]
    )
    endless = fields_of(SCHEMAS["choices within choices"], is_tool=False)
    # Each step takes twice as long as the one before, until one takes longer than the limit. Of a
    # client that leaves earlier the engine would see it between two steps, and stop.
    with pytest.raises(httpx.TransportError):
        ask_directly(engine, 60, **endless, logit_bias={opening: 100}, temperature=0)
    wait_for(lambda: not set(before) & set(programs(api)), what="the engine is ended")

    def is_answered() -> bool:
        return tenant.http.post("/v1/chat/completions", json=QUESTION).status_code == 200

    wait_for(is_answered, what="it comes back")
