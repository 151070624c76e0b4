"""How things are said on a terminal. What comes from the service is hostile: control characters would steer the terminal."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
BARS = "▁▂▃▄▅▆▇█"


def plain(value: object) -> str:
    return CONTROL.sub("", str(value)).replace("\t", " ")


def one_line(value: object) -> str:
    return plain(value).replace("\n", " ")


def size(num_bytes: int) -> str:
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def usd(amount: object) -> str:
    """Say as the service wrote it what it costs, unless that is less than a cent."""
    written = one_line(amount)
    try:
        return "< $0.01" if 0 < Decimal(written) < Decimal("0.01") else f"${written}"
    except ArithmeticError:
        return f"${written}"


def cost_of(accrued: object, projected: object) -> str:
    """Say what a job has cost, and what it will have cost where that is known and reads differently."""
    now, at_end = usd(accrued), "" if projected is None else usd(projected)
    return f"{now} of about {at_end}" if at_end not in ("", now) else now


def duration(seconds: float) -> str:
    if 0 < seconds < 1:
        return "< 1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def moment(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def sparkline(values: list[float], width: int) -> str:
    """The whole series in at most `width` characters, each the mean of its share, low to high."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
