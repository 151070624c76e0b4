"""Progress of long parts before the first step, as log messages."""

import time
from collections.abc import Callable

REPORT_SECONDS = 30.0


class ProgressCounter:
    """A counter that reports how many of `total` are done every `REPORT_SECONDS`, so that a
    supervisor does not take the trainer for hung.
    """

    def __init__(self, part: str, total: int, unit: str, report: Callable[[str], None]) -> None:
        self._part = part
        self._total = total
        self._unit = unit
        self._report = report
        self._num_done = 0
        self._said_at = time.monotonic()

    def add(self, number: int) -> None:
        self._num_done += number
        now = time.monotonic()
        if now >= self._said_at + REPORT_SECONDS:
            self._said_at = now
            self._report(
                f"{self._part}: {self._num_done:,} of {self._total:,} {self._unit} are read"
            )
