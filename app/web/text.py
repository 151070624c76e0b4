"""Texts of pages: every number with its unit, every moment both as an age and exactly."""

import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any, Protocol
from urllib.parse import quote

from app.base.database import MAX_COUNTED
from app.base.text import DAY, HOUR, MINUTE, duration, moment, rate, size
from app.base.text import usd as plain_usd
from app.catalogue.importer import TINY_MODEL_ID
from app.jobs.metadata import title_of
from app.jobs.schemas import JobObject
from app.models import Desired, Job, JobStatus
from app.web import svg
from app.web.sizes import write_size

STOPPING = {Desired.CANCEL: "cancelling", Desired.PAUSE: "pausing"}
UNPRICED = "unpriced"
PARAMETER = re.compile(r"^(training|validation)_file (is not valid: )?")
NO_BETTER = "succeeded, no better"  # parts.css has its color


def state(job: Job) -> str:
    """Return the status, or what a running job is about to become, or that a job has succeeded
    with a model that is no better than before.
    """
    if job.status == JobStatus.RUNNING and job.desired in STOPPING:
        return STOPPING[Desired(job.desired)]
    findings = job.progress.health if job.progress is not None else []
    is_worse = job.verdict is not None and job.verdict.verdict == "worse"
    is_no_better = is_worse or any(finding.is_failing for finding in findings)
    if job.status == JobStatus.SUCCEEDED and is_no_better:
        return NO_BETTER
    return job.status.replace("_", " ")


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
    return "now"


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


def count_short(value: int) -> str:
    """Write a large count in thousands, millions or billions, to three digits."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return str(value)


def counted(value: int) -> str:
    """Write a count that ends at `MAX_COUNTED`."""
    if value <= MAX_COUNTED:
        return number(value)
    return f"{number(MAX_COUNTED)}+"


def counted_as(value: int, noun: str) -> str:
    """Write a count with what is counted."""
    return f"{number(value)} {noun if value == 1 else f'{noun}s'}"


def job_name(job: Job | JobObject) -> str:
    """Return the name that a job was given, or one made of its id."""
    pairs = job.job_metadata if isinstance(job, Job) else job.metadata
    return title_of(pairs) or job.suffix or f"Job {job.id[-8:]}"


def metric(value: float) -> str:
    """Write a loss, a rate, a norm: four digits that count, as `short` of plot.js does."""
    return f"{value:.4g}"


class Priced(Protocol):
    @property
    def usd_per_device_hour(self) -> Decimal: ...


def usd(amount: str | Decimal, cost: Priced | None = None) -> str:
    """Write an amount; a zero of a `cost` without a price reads "unpriced"."""
    if cost is not None and Decimal(amount) == 0 and cost.usd_per_device_hour == 0:
        return UNPRICED
    return plain_usd(amount)


def price(usd_per_device_hour: str | Decimal) -> str:
    """Write the dollars of an hour of a device; zero stands for a missing price."""
    return rate(usd_per_device_hour) if Decimal(usd_per_device_hour) else UNPRICED


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def least_fraction(share: float) -> str:
    """Write a fraction for a field that takes it or more: never less, to six decimals."""
    rounded = Decimal(repr(share)).quantize(Decimal("0.000001"), ROUND_CEILING)
    return f"{rounded.normalize():f}"


def reason(message: str) -> str:
    """Write the message of a failure for a table: without the parameter that it begins with."""
    return PARAMETER.sub("", message)


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


def is_test_model(model_id: str) -> bool:
    """Return True for the test model and what was trained from it, which know nothing."""
    return f"{model_id}:".startswith((f"{TINY_MODEL_ID}:", f"ft:{TINY_MODEL_ID}:"))


def model_label(model_id: str) -> str:
    """Return the name of a model where one is chosen: one that knows nothing says so."""
    return f"{model_id} (test model)" if is_test_model(model_id) else model_id


def model_page(model_id: str) -> str:
    """Return the address of a model, whose id may hold slashes."""
    return f"/models/{quote(model_id, safe='')}"


def playground(model_id: str) -> str:
    """Return the address where a model is tried."""
    return f"/playground?model={quote(model_id, safe='')}"


FILTERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(age, ago, ahead, duration, iso, moment),
        *(
            as_json,
            count_short,
            counted,
            counted_as,
            job_name,
            least_fraction,
            metric,
            number,
            percent,
            reason,
            setting,
            size,
        ),
        *(price, rate, usd),
        *(is_test_model, model_label, model_page, playground, svg.bars, svg.polyline),
    )
} | {"shell": shlex.quote, "written_size": write_size}
