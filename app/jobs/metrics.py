"""A job's metrics as series, thinned to what a chart can show, in memory that does not grow with the job."""

import csv
import io
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.jobs import repository
from app.models import Job
from falqon_core.contract.messages import Evaluated, StepMetrics

DOLLARS = "cost_accrued"  # decimal text where it is money; a number where it is drawn
KEYS = (*sorted((StepMetrics.model_fields | Evaluated.model_fields).keys() - {"type", "step", "total_steps"}), "eta_seconds", DOLLARS)
MAX_POINTS = 2000

Point = tuple[int, float]  # step, value


class Thinned:
    """Of each run of `width` steps the lowest and the highest value."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._buckets: dict[int, tuple[Point, Point]] = {}

    def add(self, point: Point) -> None:
        bucket = (point[0] - 1) // self._width
        low, high = self._buckets.get(bucket, (point, point))
        self._buckets[bucket] = (point if point[1] < low[1] else low, point if point[1] >= high[1] else high)

    def points(self) -> list[Point]:
        return sorted({point for pair in self._buckets.values() for point in pair})


def series(session: Session, job: Job, keys: Sequence[str], points: int) -> dict[str, list[Point]]:
    """At most `points` of each key, by rising step. Of steps that a later attempt did again only its own are there."""
    limits = repository.rewound_to(session, job.id)
    newest = repository.newest_metrics_step(session, job.id)
    width = max(1, -(-newest // (points // 2)))
    thinned = {key: Thinned(width) for key in keys}
    for attempt, data in repository.metrics(session, job.id):
        step = data["step"]
        if step <= limits.get(attempt, step):
            for key, told in data.items():
                if key in thinned and (value := number(key, told)) is not None:
                    thinned[key].add((step, value))
    return {key: one.points() for key, one in thinned.items()}


def number(key: str, told: object) -> float | None:
    if key == DOLLARS and isinstance(told, str):
        return float(told)
    return told if isinstance(told, (int, float)) else None


def as_csv(found: Mapping[str, Sequence[Point]]) -> str:
    """One row a step; empty where a key has no point there."""
    by_key = {key: dict(points) for key, points in found.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *by_key])
    for step in sorted({step for points in by_key.values() for step in points}):
        writer.writerow([step, *(points.get(step, "") for points in by_key.values())])
    return text.getvalue()
