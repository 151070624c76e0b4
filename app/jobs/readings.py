"""Readers of event data, which a worker of an earlier version may have stored in any form."""

import math
from typing import TypeGuard

from app.models.base import JsonObject
from falqon_core.contract.figures import MAX_STEPS

DOLLARS = "cost_accrued"  # decimal text where it is money; a number where it is drawn


def step_of(data: JsonObject | None) -> int | None:
    """Return the step of an event."""
    step = (data or {}).get("step")
    return step if is_step(step) else None


def is_step(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEPS


def number(key: str, reported: object) -> float | None:
    """Return a metric as a number; None if it is not a finite number."""
    is_number = isinstance(reported, int | float) and not isinstance(reported, bool)
    if not is_number and not (key == DOLLARS and isinstance(reported, str)):
        return None
    try:
        value = float(reported)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(value):
        return None
    return reported if isinstance(reported, int) else value
