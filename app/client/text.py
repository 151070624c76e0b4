"""Wording of values on a terminal."""

import time
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

from app.base import text
from app.base.terminal import one_line
from app.base.text import duration as duration
from app.base.text import size as size
from app.client.columns import Cell
from app.client.references import shorten

MOST_DIGITS = 15  # of an amount that is written out; a service may send any exponent
MAX_MODEL_WIDTH = 40  # characters of a model's id on a terminal
BARS = "▁▂▃▄▅▆▇█"

LOSSES = {  # of a job's progress; the last two are of the merged model
    "untouched_valid_loss": "validation loss before training",
    "valid_loss": "validation loss",
    "valid_loss_fp8_weights": "with FP8 weights",
    "valid_loss_as_served": "as it is served",
}


def usd(amount: object) -> str:
    """Write an amount of the service; as it stands where that is no plain number."""
    written = one_line(amount)
    try:
        value = Decimal(written)
        if value.is_finite() and value.adjusted() < MOST_DIGITS:
            return text.usd(value)
    except ArithmeticError:
        pass
    return f"${written}"


def moment(seconds: int | None) -> str:
    """Write a moment to the minute; nothing where there is none."""
    return "" if seconds is None else text.minute(seconds)


NO_BETTER = "succeeded, no better"  # as pages say it
STYLES = {  # Colours of states on a terminal.
    "succeeded": "green",
    NO_BETTER: "yellow",
    "processed": "green",
    "running": "blue",
    "paused": "yellow",
    "failed": "red",
    "error": "red",
    "cancelled": "dim",
}


def short_id(id_: str) -> Cell:
    """Return an id that a terminal shows by its end."""
    return Cell(id_, shorten(id_))


def short_model(id_: str) -> Cell:
    """Return the id of a model, of which a narrow terminal shows the end."""
    is_long = len(id_) > MAX_MODEL_WIDTH
    return Cell(id_, f"…{id_[1 - MAX_MODEL_WIDTH :]}" if is_long else id_)


def age(seconds: int) -> Cell:
    """Return a moment that a terminal shows as an age."""
    passed = max(0.0, time.time() - seconds)
    shown = f"{int(passed)} s ago"
    for unit, name in ((text.MINUTE, "min"), (text.HOUR, "h"), (text.DAY, "d")):
        if passed >= unit:
            shown = f"{int(passed // unit)} {name} ago"
    return Cell(text.minute(seconds), shown)


def state(name: str, details: str = "") -> Cell:
    """Return a state in its colour, with what is wrong."""
    words = f"{name}: {details}" if details else name
    return Cell(words, words.replace("_", " ", 1), STYLES.get(name, ""))


def status(job: Mapping[str, Any]) -> str:
    """Return the status of a job, or that it has succeeded with a model that is no better than
    before.
    """
    is_worse = (job.get("verdict") or {}).get("verdict") == "worse"
    is_no_better = is_worse or any(each["is_failing"] for each in job.get("health") or [])
    return NO_BETTER if is_no_better and job["status"] == "succeeded" else str(job["status"])


def health(job: Mapping[str, Any]) -> list[str]:
    """Return a line for each finding on the health of a job; an older service sends none."""
    return [f"{each['message']}; {each['advice']}" for each in job.get("health") or []]


def verdict(job: Mapping[str, Any]) -> str:
    """Say whether a job's model is better than its base; an older service sends nothing."""
    return (job.get("verdict") or {}).get("short") or ""


def loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def cards(holder: Mapping[str, Any]) -> str:
    """Say which cards, or slots of a CPU, a worker or an attempt has; empty where none is named."""
    numbers = holder.get("cards") or []
    unit = "slot" if holder["device"] == "cpu" else "card"
    ending = "s" if len(numbers) > 1 else ""
    return f"{unit}{ending} {', '.join(map(str, numbers))}" if numbers else ""


def usd_at(amount: object, usd_per_device_hour: object) -> str:
    """Write an amount as `usd` does; a zero on a device without a price reads "unpriced"."""
    written = usd(amount)
    return "unpriced" if written == "$0.00" and usd(usd_per_device_hour) == written else written


def cost_of(accrued: object, projected: object, usd_per_device_hour: object = None) -> str:
    """Say what a job has cost, and what it will have cost where that is known and reads
    differently.
    """
    now = usd_at(accrued, usd_per_device_hour)
    if now == "unpriced":
        return now
    at_end = "" if projected is None else usd(projected)
    if at_end not in ("", now):
        return f"{now} of about {at_end}"
    return now


def cost_so_far(job: Mapping[str, Any]) -> str:
    """Say what a job of the service has cost, as `cost_of` does."""
    cost = job.get("cost") or {}
    if cost.get("accrued") is None:
        return ""
    return cost_of(cost["accrued"], cost.get("projected"), cost.get("usd_per_device_hour"))


def done(job: Mapping[str, Any]) -> str:
    """Say how far a job of the service is."""
    progress = job.get("progress") or {}
    if not progress.get("total_steps"):
        return ""
    return f"{progress['percent']:.0f}%, step {progress['step']}/{progress['total_steps']}"


def sparkline(values: list[float], width: int) -> str:
    """The whole series in at most `width` characters, each the mean of its share, low to high."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low = min(means)
    high = max(means)
    span = (high - low) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
