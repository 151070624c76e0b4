"""Figures at the top of a job's page: the loss, the time of its end, and the cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from app.jobs.schemas import JobObject
from app.models import Job
from app.models.job_lifecycle import TERMINAL
from app.web.svg import Frame

Points = Sequence[tuple[int, float]]

MAX_DRAWN = 64  # evaluations of a sparkline
WIDTH = 220.0
HEIGHT = 56.0


@dataclass(frozen=True, slots=True)
class Learning:
    """`training` and `validation`: `points` of polylines in one box. `best`: step and validation
    loss, with its place in the box.
    """

    first: float  # First value of the curve that matters.
    last: float
    training: str
    validation: str
    best: tuple[int, float] | None
    best_at: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Budgeted:
    """The used share of a cap. `reaches_it`: before the job would end."""

    used: float
    cap: float
    reaches_it: bool

    @property
    def percent(self) -> float:
        return min(100.0, 100 * self.used / self.cap)


def learning_of(training: Points, validation: Points) -> Learning | None:
    """Draw both curves; None before there is a point of either."""
    drawn = _thinned(validation)
    points = [*training, *drawn]
    if not points:
        return None
    best = min(validation, key=lambda point: (point[1], point[0]), default=None)
    frame = Frame.around([*points, *([best] if best else [])], WIDTH, HEIGHT)
    curve = drawn or training
    return Learning(
        first=curve[0][1],
        last=curve[-1][1],
        training=frame.polyline(training),
        validation=frame.polyline(drawn),
        best=best,
        best_at=frame.place(best) if best else (0.0, 0.0),
    )


def dollars_of_budget(job: JobObject, row: Job) -> Budgeted | None:
    if row.budget is None or not row.budget.max_cost_usd or job.cost is None:
        return None
    cap = row.budget.max_cost_usd
    reaches_it = _goes_on(row) and (job.cost.projected or Decimal(0)) > cap
    return Budgeted(float(job.cost.accrued), float(cap), reaches_it)


def seconds_of_budget(row: Job) -> Budgeted | None:
    if row.budget is None or row.budget.max_seconds is None:
        return None
    used = row.execution_seconds or 0.0
    left = row.progress.eta_seconds if row.progress else None
    if left is None:
        left = row.estimate.seconds.expected if row.estimate else 0.0
    cap = float(row.budget.max_seconds)
    return Budgeted(used, cap, _goes_on(row) and used + left > cap)


def waited_seconds(row: Job) -> float | None:
    """Return the time until the first attempt; None before that."""
    if row.started_at is None:
        return None
    return max(0.0, (row.started_at - row.created_at).total_seconds())


def _goes_on(row: Job) -> bool:
    return row.status not in TERMINAL


def _thinned(points: Points) -> Points:
    """Leave out what a small box cannot show; the last point stays."""
    stride = -(-len(points) // MAX_DRAWN)
    return [*points[:-1:stride], points[-1]] if stride > 1 else points
