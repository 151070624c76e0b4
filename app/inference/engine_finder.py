"""Wait of an API process' requests for the engines of a model."""

import asyncio
import time
from collections.abc import Sequence

from anyio.to_thread import run_sync

from app.auth.caller import Caller
from app.base.database import Database
from app.inference import service
from app.inference.service import EngineTarget
from app.services import Services

POLL_SECONDS = 0.1


class EngineFinder:
    """Finds engines. The requests of a project that wait for a model share each poll: one poll for
    each would take the threads, and the database, from the requests of everyone else.
    """

    def __init__(self) -> None:
        self._polls: dict[tuple[str, str], asyncio.Task[Sequence[EngineTarget]]] = {}

    async def find(
        self, services: Services, caller: Caller, model_id: str
    ) -> Sequence[EngineTarget]:
        """Return the engines of a model that are ready, once there is one.

        Raises `NotFound`, `EngineFailed`, and `Unavailable` if none is ready in time.
        """
        wait_seconds = services.settings.engine_wait.total_seconds()
        deadline = time.monotonic() + wait_seconds
        lookup = (services.settings, services.database, services.notifier)
        targets = await run_sync(service.find_or_request, *lookup, caller.project_id, model_id)
        while not targets:
            if time.monotonic() > deadline:
                raise await run_sync(service.not_loaded, services.database, model_id, wait_seconds)
            targets = await self._share_poll(services.database, caller.project_id, model_id)
        return targets

    async def _share_poll(
        self, database: Database, project_id: str, model_id: str
    ) -> Sequence[EngineTarget]:
        """Return the result of the next poll, which outlives the request that began it."""
        poll = self._polls.get((project_id, model_id))
        if poll is None:
            poll = asyncio.create_task(self._poll_later(database, project_id, model_id))
            self._polls[project_id, model_id] = poll
        return await asyncio.shield(poll)

    async def _poll_later(
        self, database: Database, project_id: str, model_id: str
    ) -> Sequence[EngineTarget]:
        await asyncio.sleep(POLL_SECONDS)
        # Later requests take a later poll: this one may read a failure older than they are.
        del self._polls[project_id, model_id]
        return await run_sync(service.poll, database, project_id, model_id)
