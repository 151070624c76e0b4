"""How pages say things: every number with its unit, every moment both as an age and exactly."""

import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import quote

from app.base.database import MAX_COUNTED
from app.models import Desired, Job, JobStatus
from app.web import svg
from app.web.sizes import write_size

STOPPING = {Desired.CANCEL: "cancelling", Desired.PAUSE: "pausing"}
MINUTE = 60
HOUR = 3600
DAY = 86400
UNPRICED = "unpriced"


def state(job: Job) -> str:
    """Return the status, or what a running job is about to become."""
    if job.status == JobStatus.RUNNING and job.desired in STOPPING:
        return STOPPING[Desired(job.desired)]
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
    if minutes:
        return f"{minutes} min {rest:02} s"
    return f"{rest} s"


def ago(seconds: float) -> str:
    """Write one unit, for columns; `page.js` keeps it up to date by the same rule."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    if seconds < 10:
        return "just now"
    return f"{int(seconds)} s ago"


def age(moment: int) -> str:
    return ago(max(0.0, datetime.now(UTC).timestamp() - moment))


def ahead(moment: int) -> str:
    seconds = moment - datetime.now(UTC).timestamp()
    if seconds >= 1:
        return f"in about {duration(seconds)}"
    return "at once"


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def number(value: float) -> str:
    """Write thin spaces between thousands, and no digits behind the point that mean nothing."""
    digits = 2
    if value == int(value) or abs(value) >= 1000:
        digits = 0
    elif abs(value) >= 100:
        digits = 1
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(value: int) -> str:
    """Write a count that ends at `MAX_COUNTED`."""
    if value <= MAX_COUNTED:
        return number(value)
    return f"{number(MAX_COUNTED)}+"


def metric(value: float) -> str:
    """Write a loss, a rate, a norm: four digits that count."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.4g}"
    return f"{value:.2e}"


def size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            if unit == "B":
                return f"{num_bytes:.0f} {unit}"
            return f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} TiB"


class Priced(Protocol):
    @property
    def usd_per_device_hour(self) -> Decimal: ...


def usd(amount: str | Decimal, cost: Priced | None = None) -> str:
    """Cents where there are dollars, four digits where there are not; less than a cent is not
    counted out. `cost`: the amount is one of it, and nothing was charged where it has no price.
    """
    value = Decimal(amount)
    if value == 0 and cost is not None and cost.usd_per_device_hour == 0:
        return UNPRICED
    if 0 < value < Decimal("0.01"):
        return "< $0.01"
    return rate(value)


def rate(amount: str | Decimal) -> str:
    """Dollars for an hour or a million tokens, which stay apart however small they are."""
    value = Decimal(amount)
    if value >= 1 or value == 0:
        return f"${value:,.2f}"
    return f"${value:.4f}"


def price(usd_per_device_hour: str | Decimal) -> str:
    """Dollars of an hour of a device; zero stands for a price that nobody has set."""
    return rate(usd_per_device_hour) if Decimal(usd_per_device_hour) else UNPRICED


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def setting(value: object) -> str:
    """Write a setting, as JSON spells it where that differs from Python."""
    if isinstance(value, bool | dict):
        return as_json(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def as_json(value: object) -> str:
    """Write JSON to be read: every letter stands for itself."""
    return json.dumps(value, ensure_ascii=False)


def model_page(model_id: str) -> str:
    """Return the address of a model, whose id may hold slashes."""
    return f"/models/{quote(model_id, safe='')}"


def playground(model_id: str) -> str:
    """Return the address where a model is tried."""
    return f"/playground?model={quote(model_id, safe='')}"


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
    "written_size": write_size,
    "usd": usd,
    "price": price,
    "rate": rate,
    "percent": percent,
    "setting": setting,
    "as_json": as_json,
    "shell": shlex.quote,
    "model_page": model_page,
    "playground": playground,
    "bars": svg.bars,
    "polyline": svg.polyline,
}
