"""Requests that wait for a model to be loaded."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.auth.caller import Caller
from app.base.database import now_plus
from app.base.errors import NotFound, Unavailable
from app.inference import service
from app.inference.engine_finder import POLL_SECONDS, EngineFinder
from app.inference.service import EngineFailed, EngineTarget
from app.models import Engine, EngineState, Scope
from app.services import Services
from tests.support.api import Api, Tenant

WAIT_SECONDS = 60.0
SHORT_WAIT_SECONDS = 3.0  # two polls on a busy machine, too
NUM_REQUESTS = 30
ADDRESS = "http://127.0.0.1:1"
Request = asyncio.Task[Sequence[EngineTarget]]


@pytest.fixture
def tenant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tenant]:
    """No worker loads its models."""
    wait = timedelta(seconds=getattr(request, "param", WAIT_SECONDS))
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, engine_wait=wait)
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Project and model of each poll."""
    polls: list[tuple[Any, ...]] = []
    poll = service.poll

    def count(database: Any, *names: str) -> Sequence[EngineTarget]:
        polls.append(names)
        return poll(database, *names)

    monkeypatch.setattr(service, "poll", count)
    return polls


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Model of each request whose engine is looked up: from then on it waits for polls alone."""
    lookups: list[str] = []
    find_or_request = service.find_or_request

    def count(*lookup: Any) -> Sequence[EngineTarget]:
        targets = find_or_request(*lookup)
        lookups.append(lookup[-1])
        return targets

    monkeypatch.setattr(service, "find_or_request", count)
    return lookups


async def until_looked_up(lookups: list[str], num_requests: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while len(lookups) < num_requests:
            await asyncio.sleep(POLL_SECONDS)


def services_of(tenant: Tenant) -> Services:
    services: Services = tenant.api.app.state.services
    return services


def caller_of(tenant: Tenant) -> Caller:
    return Caller("key", tenant.project_id, Scope.WRITE, None, False)


def change(tenant: Tenant, model_id: str, **values: Any) -> None:
    """Change the engine of a model as a worker does."""
    with tenant.api.database.transaction() as session:
        session.execute(update(Engine).where(Engine.model_id == model_id).values(**values))


def load(tenant: Tenant, model_id: str) -> None:
    ready = {"state": EngineState.READY, "address": ADDRESS, "lease_expires_at": now_plus(600)}
    change(tenant, model_id, **ready)


def begin(finder: EngineFinder, tenant: Tenant, num_requests: int) -> list[Request]:
    find = (services_of(tenant), caller_of(tenant), tenant.base_model)
    return [asyncio.create_task(finder.find(*find)) for _ in range(num_requests)]


async def start(
    finder: EngineFinder, tenant: Tenant, lookups: list[str], num_requests: int
) -> list[Request]:
    """Return requests that wait."""
    before = len(lookups)
    tasks = begin(finder, tenant, num_requests)
    await until_looked_up(lookups, before + num_requests)
    assert not any(task.done() for task in tasks)
    return tasks


@pytest.mark.parametrize("tenant", [SHORT_WAIT_SECONDS], indirect=True)
def test_requests_that_wait_for_a_model_share_each_poll(
    tenant: Tenant, polls: list[tuple[Any, ...]]
) -> None:
    async def wait_in_vain() -> list[Any]:
        tasks = begin(EngineFinder(), tenant, NUM_REQUESTS)
        return await asyncio.gather(*tasks, return_exceptions=True)

    failures = asyncio.run(wait_in_vain())
    assert {type(failure) for failure in failures} == {Unavailable}
    assert set(polls) == {(tenant.project_id, tenant.base_model)}
    assert 2 <= len(polls) < NUM_REQUESTS


def test_others_have_their_engine_when_the_first_that_waits_goes_away(
    tenant: Tenant, lookups: list[str]
) -> None:
    async def go_away() -> list[Sequence[EngineTarget]]:
        first, *others = await start(EngineFinder(), tenant, lookups, 3)
        first.cancel()
        load(tenant, tenant.base_model)
        return await asyncio.gather(*others)

    found = asyncio.run(go_away())
    assert [[target.address for target in targets] for targets in found] == [[ADDRESS]] * 2


def test_a_failure_ends_the_wait_of_all_and_the_next_request_begins_anew(
    tenant: Tenant, lookups: list[str]
) -> None:
    async def fail() -> list[Any]:
        finder = EngineFinder()
        tasks = await start(finder, tenant, lookups, 3)
        change(tenant, tenant.base_model, state=EngineState.FAILED, error_message="No memory.")
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        (again,) = await start(finder, tenant, lookups, 1)
        load(tenant, tenant.base_model)
        await again
        return failures

    failures = asyncio.run(fail())
    assert [(type(each), str(each)) for each in failures] == [(EngineFailed, "No memory.")] * 3


def test_a_model_of_another_project_is_not_waited_for(tenant: Tenant, lookups: list[str]) -> None:
    stranger = Tenant(tenant.api)
    tenant.add_model("ft:mine", project_id=tenant.project_id)

    async def wait() -> None:
        finder = EngineFinder()
        mine = asyncio.create_task(finder.find(services_of(tenant), caller_of(tenant), "ft:mine"))
        await until_looked_up(lookups, 1)
        with pytest.raises(NotFound):
            await finder.find(services_of(tenant), caller_of(stranger), "ft:mine")
        load(tenant, "ft:mine")
        assert await mine

    asyncio.run(wait())
    stranger.http.close()
