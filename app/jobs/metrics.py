"""Metrics of a job as series, thinned to the resolution of a chart, in memory that does not grow
with the job.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.effective_steps import effective_steps
from app.jobs.readings import DOLLARS, number, step_of
from app.models import Job
from falqon_core.contract.messages import Evaluated, Merged, StepMetrics

KEYS = (
    *sorted(
        (StepMetrics.model_fields | Evaluated.model_fields | Merged.model_fields).keys()
        - {"type", "step", "total_steps"}
    ),
    "eta_seconds",
    DOLLARS,
)
MAX_POINTS = 2000

Point = tuple[int, float]  # step, value
SeriesByKey = Mapping[str, Sequence[Point]]


class Thinned:
    """Lowest and highest value of every `width` steps, the first and the last of all."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._buckets: dict[int, tuple[Point, Point]] = {}
        self._ends: list[Point] = []

    def add(self, point: Point) -> None:
        self._ends[1:] = [point]
        bucket = (point[0] - 1) // self._width
        low, high = self._buckets.get(bucket, (point, point))
        if point[1] < low[1]:
            low = point
        if point[1] >= high[1]:
            high = point
        self._buckets[bucket] = (low, high)

    def points(self, at_most: int) -> list[Point]:
        points = {point for pair in self._buckets.values() for point in pair}
        if len(points) + len(self._ends) <= at_most:
            points.update(self._ends)
        return sorted(points)


def series(session: Session, job: Job, keys: Sequence[str], num_points: int) -> SeriesByKey:
    """Return at most `num_points` of each key, by rising step."""
    effective = effective_steps(session, [job.id])[job.id]
    newest = repository.newest_metrics_step(session, job.id)
    num_buckets = max(1, (num_points - 2) // 2)  # the ends are points of their own
    width = max(1, -(-newest // num_buckets))
    thinned = {key: Thinned(width) for key in keys}
    for attempt, data in repository.metrics(session, job.id):
        step = step_of(data)
        if step is not None and effective.include(attempt, step):
            for key, reported in data.items():
                if key in thinned and (value := number(key, reported)) is not None:
                    thinned[key].add((step, value))
    return {key: series.points(num_points) for key, series in thinned.items()}
