"""Durations, sizes, money and moments as people read them, on pages and on a terminal."""

from datetime import UTC, datetime
from decimal import Decimal

MINUTE = 60
HOUR = 3600
DAY = 86400


def duration(seconds: float) -> str:
    """Write the two largest units, in whole seconds."""
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


def size(num_bytes: float) -> str:
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        num_bytes /= 1024
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} TiB"


def usd(amount: str | Decimal) -> str:
    """Write cents where there are dollars, four digits where there are not; less than a cent is not
    counted out.
    """
    value = Decimal(amount)
    if 0 < value < Decimal("0.01"):
        return "< $0.01"
    return rate(value)


def rate(amount: str | Decimal) -> str:
    """Write dollars for an hour or a million tokens, which stay apart however small they are."""
    value = Decimal(amount)
    if value >= 1 or value == 0:
        return f"${value:,.2f}"
    return f"${value:.4f}"


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def minute(seconds: int) -> str:
    """Write a moment to the minute, for columns."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
