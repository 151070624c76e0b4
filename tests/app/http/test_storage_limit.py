from contextlib import AsyncExitStack

import anyio
import pytest

from app.base.errors import Unavailable
from app.http import storage_limit
from app.http.storage_limit import REQUESTS_AT_ONCE, REQUESTS_PER_PROJECT, storage_turn


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_limit, "WAIT_SECONDS", 0.05)


async def take(held: AsyncExitStack, project_id: str, count: int) -> None:
    for _ in range(count):
        await held.enter_async_context(storage_turn(project_id))


async def is_refused(project_id: str) -> bool:
    try:
        async with storage_turn(project_id):
            return False
    except Unavailable:
        return True


def test_one_project_leaves_room_to_others() -> None:
    async def check() -> None:
        async with AsyncExitStack() as held:
            await take(held, "proj_a", REQUESTS_PER_PROJECT)
            assert await is_refused("proj_a")
            assert not await is_refused("proj_b")
        assert not await is_refused("proj_a")

    anyio.run(check)


def test_all_projects_together_have_a_limit() -> None:
    async def check() -> None:
        async with AsyncExitStack() as held:
            for project_id in ("proj_a", "proj_b"):
                await take(held, project_id, REQUESTS_AT_ONCE // 2)
            assert await is_refused("proj_c")
        async with AsyncExitStack() as held:  # what was refused holds nothing
            await take(held, "proj_c", REQUESTS_PER_PROJECT)

    anyio.run(check)
