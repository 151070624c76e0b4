import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Late(AssertionError):
    """What did not happen in time; on a loaded machine that need not be a defect."""


def wait_for(
    condition: Callable[[], T], seconds: float = 60.0, what: str = "", every_seconds: float = 0.05
) -> T:
    """Poll until the condition gives something true. The default is patience for a busy machine. A
    shorter time is a bound, for what would come by itself later.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise Late(f"not within {seconds:g} s: {what or condition}")
        time.sleep(every_seconds)
