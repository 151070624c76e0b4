"""Find the engine that answers for a model, and have it started where there is none."""

import asyncio
import time

from anyio.to_thread import run_sync

from app.auth.caller import Caller
from app.base.errors import Unavailable
from app.inference import service
from app.inference.service import Target
from app.services import Services

POLL_SECONDS = 0.1


async def find_target(services: Services, caller: Caller, model_id: str) -> Target:
    """Return the engine of a model once it is ready.

    Raises `NotFound`, `EngineFailed`, and `Unavailable` where it is not ready in time.
    """
    wait_seconds = services.settings.engine_wait.total_seconds()
    deadline = time.monotonic() + wait_seconds
    lookup = (services.settings, services.database, services.notifier)
    target = await run_sync(service.find_or_ask, *lookup, caller.project_id, model_id)
    while target is None:
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The model '{model_id}' is not loaded after {wait_seconds:g} s; ask again. "
                "If that does not help: does a cpu worker run?",
                code="model_loading",
            )
        await asyncio.sleep(POLL_SECONDS)
        target = await run_sync(service.look, services.database, model_id)
    return target


def note_use(services: Services, target: Target) -> None:
    """Keep the engine loaded, and others from taking its place."""
    service.note_use(services.database, target)


def give_up(services: Services, target: Target) -> None:
    """Have the model loaded anew by whoever asks next."""
    service.give_up(services.database, target)
