"""How things are said on a terminal."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

from app.base.terminal import one_line

BARS = "▁▂▃▄▅▆▇█"


def size(num_bytes: int) -> str:
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            if unit == "B":
                return f"{amount:.0f} {unit}"
            return f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def usd(amount: object) -> str:
    """Say as the service wrote it what it costs, unless that is less than a cent or nothing."""
    written = one_line(amount)
    try:
        amount_usd = Decimal(written)
        if 0 < amount_usd < Decimal("0.01"):
            return "< $0.01"
        if amount_usd == 0:
            return "$0.00"
        return f"${written}"
    except ArithmeticError:
        return f"${written}"


def cards(holder: Mapping[str, Any]) -> str:
    """Say which cards, or slots of a CPU, a worker or an attempt has; empty where none is named."""
    numbers = holder.get("cards") or []
    unit = "slot" if holder["device"] == "cpu" else "card"
    ending = "s" if len(numbers) > 1 else ""
    return f"{unit}{ending} {', '.join(map(str, numbers))}" if numbers else ""


def usd_at(amount: object, usd_per_device_hour: object) -> str:
    """Say an amount as `usd` does, but that nothing was charged where the device has no price."""
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


def duration(seconds: float) -> str:
    if 0 < seconds < 1:
        return "< 1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {rest:02} s"
    return f"{rest} s"


def moment(seconds: int | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


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
