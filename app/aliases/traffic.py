"""Requests that named an alias, counted in the process that answered them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from threading import Lock


@dataclass(frozen=True, slots=True, order=True)
class TrafficKey:
    project_id: str
    name: str
    model_id: str
    day: date


@dataclass(slots=True)
class TrafficCount:
    requests: int = 0
    errors: int = 0
    milliseconds: float = 0.0


class Traffic:
    """Counts that are not in the database yet."""

    def __init__(self) -> None:
        self._counts: defaultdict[TrafficKey, TrafficCount] = defaultdict(TrafficCount)
        self._lock = Lock()

    def add(self, project_id: str, name: str, model_id: str, seconds: float | None) -> None:
        """Count an answer that began after so many seconds; None: it failed."""
        key = TrafficKey(project_id, name, model_id, datetime.now(UTC).date())
        if seconds is None:
            self.put_back({key: TrafficCount(1, 1)})
        else:
            self.put_back({key: TrafficCount(1, 0, seconds * 1000)})

    def take(self) -> Mapping[TrafficKey, TrafficCount]:
        with self._lock:
            counts, self._counts = self._counts, defaultdict(TrafficCount)
        return counts

    def put_back(self, counts: Mapping[TrafficKey, TrafficCount]) -> None:
        with self._lock:
            for key, added in counts.items():
                count = self._counts[key]
                count.requests += added.requests
                count.errors += added.errors
                count.milliseconds += added.milliseconds
