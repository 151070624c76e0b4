"""Bounded waiting: an agent's client gives a tool a minute or two, a job takes hours."""

import time
from collections.abc import Callable

from app.client.api import Json

POLL_SECONDS = 0.5


def wait_until(is_over: Callable[[Json], bool], read: Callable[[], Json], seconds: float) -> Json:
    """Return the object as soon as `is_over` holds of it, or as it is after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        answer = read()
        left = deadline - time.monotonic()
        if is_over(answer) or left <= 0:
            return answer
        time.sleep(min(POLL_SECONDS, left))
