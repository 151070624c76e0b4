"""What a training costs on one machine beside its arithmetic, as a very short one measures it
before any job has.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict


class Timeline(NamedTuple):
    """Seconds since the trainer was started: when each step was done, and when it ended."""

    steps: Sequence[float]
    end: float


class Calibration(BaseModel):
    """Seconds of a small model's training: until its first step, of a step, and after the last."""

    model_config = ConfigDict(frozen=True)

    start_seconds: float
    step_seconds: float
    export_seconds: float

    @classmethod
    def of(cls, timeline: Timeline) -> Self | None:
        """Read a training; None where it tells too little. Its first step, which warms up, counts
        as start.
        """
        first, last = (timeline.steps[0], timeline.steps[-1]) if timeline.steps else (0.0, 0.0)
        if len(timeline.steps) < 2 or not 0 < first <= last <= timeline.end:
            return None
        return cls(
            start_seconds=round(first, 3),
            step_seconds=round((last - first) / (len(timeline.steps) - 1), 4),
            export_seconds=round(timeline.end - last, 3),
        )
