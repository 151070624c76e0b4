"""The usage page: amounts by day as bars, the dearest of each kind, limits that are nearly used
up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from app.projects.quotas import WARNING_SHARE
from app.projects.schemas import ProjectObject
from app.usage.amounts import DailyUsage, Span


@dataclass(frozen=True, slots=True)
class UsageBar:
    """One day; `height` is its share of the scale."""

    day: date
    cost: Decimal
    device_seconds: float
    tokens: int
    num_requests: int
    model_tokens: int  # read and written
    height: float


@dataclass(frozen=True, slots=True)
class Totals:
    cost: Decimal
    device_seconds: float
    tokens: int
    num_requests: int
    model_tokens: int


@dataclass(frozen=True, slots=True)
class Alert:
    project_id: str
    project: str
    limit: str  # Name of the limit.
    share: float

    @property
    def is_used_up(self) -> bool:
        return self.share >= 1


def scale_of(rows: Iterable[DailyUsage]) -> Decimal:
    """Return the top of the scale of the bars: 1, 2 or 5 of a decade, at least the highest day."""
    highest = max((usage.cost for usage in rows), default=Decimal(0)) or Decimal(1)
    decade = Decimal(10) ** highest.adjusted()
    return next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= highest)


def bars_of(rows: Sequence[DailyUsage], span: Span, scale: Decimal) -> list[UsageBar]:
    by_day = {usage.day: usage for usage in rows}
    nothing = DailyUsage(span.begin, {}, Decimal(0), 0.0, 0, 0)
    bars = []
    for day in span.days:
        usage = by_day.get(day, nothing)
        height = float(usage.cost / scale)
        bars.append(
            UsageBar(
                day,
                usage.cost,
                usage.device_seconds,
                usage.tokens,
                usage.num_requests,
                usage.input_tokens + usage.output_tokens,
                height,
            )
        )
    return bars


def totals_of(bars: Iterable[UsageBar]) -> Totals:
    days = list(bars)
    return Totals(
        sum((day.cost for day in days), Decimal(0)),
        sum(day.device_seconds for day in days),
        sum(day.tokens for day in days),
        sum(day.num_requests for day in days),
        sum(day.model_tokens for day in days),
    )


def alerts_of(projects: Iterable[ProjectObject]) -> list[Alert]:
    """Return the limits of which most is used, the worst first."""
    alerts = [
        Alert(project.id, project.name, name, share)
        for project in projects
        for name, share in _shares(project).items()
        if share >= WARNING_SHARE
    ]
    return sorted(alerts, key=lambda alert: -alert.share)


def _shares(project: ProjectObject) -> Mapping[str, float]:
    usage = project.usage
    if usage is None:
        return {}
    limits = {
        "device hours of this month": (usage.device_hours, project.max_device_hours),
        "storage": (usage.storage_bytes, project.max_storage_bytes),
        "live jobs": (usage.live_jobs, project.max_live_jobs),
    }
    return {
        name: used / limit if limit else 1.0
        for name, (used, limit) in limits.items()
        if limit is not None
    }
