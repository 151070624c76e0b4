"""Turns at an engine: it has a number of slots, and projects take them in turn.

The turns are those of this process: other API processes, and evaluations, send requests to an
engine beside it.
"""

import asyncio
import time
from collections import Counter

from app.inference.service import EngineTarget

NOTED_EVERY_SECONDS = 5.0


class EngineQueue:
    """Slots of one engine, and the projects that wait for one.

    The next slot is for the project that has fewest, and of these for the one that waited longest.
    """

    def __init__(self, max_answers: int) -> None:
        self._num_free = max_answers
        self._num_held: Counter[str] = Counter()
        # In the order of their turns; a dictionary of futures is a set that keeps its order.
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        self._noted_at = time.monotonic()

    @property
    def is_idle(self) -> bool:
        return not self._num_held and not self._waiting

    def is_use_due(self) -> bool:
        """Return True, once every few seconds, if the use of the engine is due to be recorded."""
        now = time.monotonic()
        if now < self._noted_at + NOTED_EVERY_SECONDS:
            return False
        self._noted_at = now
        return True

    async def take(self, project_id: str) -> "EngineTurn":
        """Wait for a turn."""
        if self._num_free:
            self._hold(project_id)
            return EngineTurn(self, project_id)
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, {})[future] = None
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._forget(project_id, future)
            else:  # the turn came in the same moment
                self.release(project_id)
            raise
        return EngineTurn(self, project_id)

    def release(self, project_id: str) -> None:
        """Pass a project's turn to the next one."""
        self._num_free += 1
        self._num_held[project_id] -= 1
        if not self._num_held[project_id]:
            del self._num_held[project_id]
        while self._num_free and self._waiting:
            self._hand_out()

    def _hand_out(self) -> None:
        project_id = min(self._waiting, key=self._num_held.__getitem__)
        futures = self._waiting.pop(project_id)
        future = next(iter(futures))
        del futures[future]
        if futures:  # behind the others
            self._waiting[project_id] = futures
        if not future.done():  # otherwise it has just been cancelled
            self._hold(project_id)
            future.set_result(None)

    def _hold(self, project_id: str) -> None:
        self._num_free -= 1
        self._num_held[project_id] += 1

    def _forget(self, project_id: str, future: asyncio.Future[None]) -> None:
        futures = self._waiting.get(project_id, {})
        futures.pop(future, None)
        if not futures:
            self._waiting.pop(project_id, None)


class EngineTurn:
    """Right to one answer, until it is released."""

    def __init__(self, queue: EngineQueue, project_id: str) -> None:
        self._queue = queue
        self._project_id = project_id
        self._is_held = True

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._queue.release(self._project_id)


class EngineQueues:
    """By the engine's address."""

    def __init__(self) -> None:
        self._queues: dict[str, EngineQueue] = {}

    def of(self, target: EngineTarget) -> EngineQueue:
        queue = self._queues.get(target.address)
        if queue is None:
            self._queues = {key: each for key, each in self._queues.items() if not each.is_idle}
            queue = self._queues[target.address] = EngineQueue(target.max_answers)
        return queue
