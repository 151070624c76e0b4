"""Refusals of an engine that takes no request now, and will take the same one later."""

import httpx

from app.base.errors import ApiError, Unavailable
from app.inference.refusals import is_busy
from app.inference.service import EngineTarget

USUAL_SECONDS = 15.0  # until the next request, where the engine names no time
MIN_SECONDS = 1.0
MAX_SECONDS = 300.0


class EngineBusy(Unavailable):
    """The engine asks to be asked again after `wait_seconds`."""

    def __init__(self, refusal: ApiError, wait_seconds: float) -> None:
        super().__init__(refusal.message, code=refusal.code)
        self.wait_seconds = wait_seconds


def busy_of(target: EngineTarget, answer: httpx.Response) -> EngineBusy | None:
    """Return the refusal of a busy engine; None for any other answer."""
    if not is_busy(answer.status_code, answer.content):
        return None
    return EngineBusy(target.refusal_of(answer, answer.content), _wait_seconds_of(answer))


def _wait_seconds_of(answer: httpx.Response) -> float:
    """Return the seconds of `retry-after` within bounds; the usual ones for a date or nothing."""
    text = answer.headers.get("retry-after", "")
    if not (text.isascii() and text.isdigit()):
        return USUAL_SECONDS
    return min(max(float(text), MIN_SECONDS), MAX_SECONDS)
