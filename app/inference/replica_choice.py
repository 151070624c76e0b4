"""Choice among the engines of a model, by what this process has sent them."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.inference import service
from app.inference.service import EngineTarget

# By then the lease of an engine that has gone is over, or the next request tries it again.
AVOIDED_SECONDS = 15.0

Key = tuple[str, str]


class ReplicaChoice:
    """Requests in flight by engine, and engines that have just not answered."""

    def __init__(self) -> None:
        self._num_in_flight: Counter[Key] = Counter()
        self._avoided: dict[Key, float] = {}

    def choose(self, targets: Sequence[EngineTarget]) -> EngineTarget:
        """Return the engine with fewest requests in flight for the answers that it gives at once,
        of several the one that had fewest of all processes. One that has just not answered is the
        last choice.
        """
        now = time.monotonic()
        self._avoided = {key: until for key, until in self._avoided.items() if until > now}

        def load(target: EngineTarget) -> tuple[bool, float]:
            num_in_flight = self._num_in_flight[target.key]
            return target.key in self._avoided, num_in_flight / target.max_answers

        least = min(map(load, targets))
        return service.choose([target for target in targets if load(target) == least])

    @contextmanager
    def hold(self, target: EngineTarget) -> Iterator[None]:
        """Count a request until the end of the block."""
        self._num_in_flight[target.key] += 1
        try:
            yield
        finally:
            self._num_in_flight[target.key] -= 1
            if not self._num_in_flight[target.key]:
                del self._num_in_flight[target.key]

    def avoid(self, target: EngineTarget) -> None:
        self._avoided[target.key] = time.monotonic() + AVOIDED_SECONDS
