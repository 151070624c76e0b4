"""How pages say things: every number with its unit, every moment both as an age and exactly."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from app.jobs.listing import MAX_COUNTED
from app.models import Desired, Job, JobStatus
from app.web import svg

WISHES = {Desired.CANCEL: "cancelling", Desired.PAUSE: "pausing"}
MINUTE, HOUR, DAY = 60, 3600, 86400


def state(job: Job) -> str:
    """The status, or what a running job is about to become."""
    if job.status == JobStatus.RUNNING and job.desired in WISHES:
        return WISHES[Desired(job.desired)]
    return job.status.replace("_", " ")


def duration(seconds: float) -> str:
    if 0 < seconds < 1:
        return "< 1 s"
    minutes, rest = divmod(round(seconds), MINUTE)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def ago(seconds: float) -> str:
    """One unit, for columns; `page.js` keeps it up to date by the same rule."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return "just now" if seconds < 10 else f"{int(seconds)} s ago"


def age(moment: int) -> str:
    return ago(max(0.0, datetime.now(UTC).timestamp() - moment))


def ahead(moment: int) -> str:
    seconds = moment - datetime.now(UTC).timestamp()
    return f"in about {duration(seconds)}" if seconds >= 1 else "at once"


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def number(value: float) -> str:
    """With thin spaces between thousands; no digits behind the point that mean nothing."""
    digits = 0 if value == int(value) or abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(value: int) -> str:
    """A count that ends at `MAX_COUNTED`."""
    return number(value) if value <= MAX_COUNTED else f"{number(MAX_COUNTED)}+"


def metric(value: float) -> str:
    """A loss, a rate, a norm: four digits that count."""
    return f"{value:.4g}" if value == 0 or 0.001 <= abs(value) < 10_000 else f"{value:.2e}"


def size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} TiB"


def usd(amount: str | Decimal) -> str:
    """Cents where there are dollars, four digits where there are not; less than a cent is not counted out."""
    value = Decimal(amount)
    return "< $0.01" if 0 < value < Decimal("0.01") else rate(value)


def rate(amount: str | Decimal) -> str:
    """Dollars for an hour or a million tokens, which stay apart however small they are."""
    value = Decimal(amount)
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def said(value: object) -> str:
    """A setting, as JSON spells it where that differs from Python."""
    return str(value).lower() if isinstance(value, bool) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def model_page(model_id: str) -> str:
    """The address of a model, whose id may hold slashes."""
    return f"/models/{quote(model_id, safe='')}"


FILTERS: dict[str, Callable[..., Any]] = {
    "duration": duration,
    "age": age,
    "ahead": ahead,
    "ago": ago,
    "moment": moment,
    "iso": iso,
    "number": number,
    "counted": counted,
    "metric": metric,
    "size": size,
    "usd": usd,
    "rate": rate,
    "percent": percent,
    "said": said,
    "model_page": model_page,
    "polyline": svg.polyline,
}
