"""Cache of the engines that have just answered, so that a conversation does not query the database
with every request.

A model that is deleted or unloaded stays reachable for that time; the caller and its rights are
checked in every request.
"""

import time
from collections.abc import Sequence

from app.inference.service import EngineTarget

LIFETIME_SECONDS = 1.0
MAX_KNOWN = 10_000


class KnownTargets:
    """By project and model."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str], tuple[Sequence[EngineTarget], float]] = {}

    def find(self, project_id: str, model_id: str) -> Sequence[EngineTarget]:
        """Return the engines of a model; none if they are unknown."""
        targets, known_at = self._targets.get((project_id, model_id), ((), 0.0))
        if time.monotonic() > known_at + LIFETIME_SECONDS:
            return ()
        return targets

    def keep(self, project_id: str, model_id: str, targets: Sequence[EngineTarget]) -> None:
        if len(self._targets) >= MAX_KNOWN:
            self._targets.clear()
        self._targets[project_id, model_id] = targets, time.monotonic()

    def forget(self, project_id: str, model_id: str) -> None:
        self._targets.pop((project_id, model_id), None)
