"""What a training costs on one machine beside its arithmetic, as a very short one measures it
before any job has.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict


class Timeline(NamedTuple):
    """Seconds: when the first step was done since the trainer was started, each step as the trainer
    counts, and when it ended.
    """

    first: float
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
        if len(timeline.steps) < 2:
            return None
        stepping = timeline.steps[-1] - timeline.steps[0]
        export = timeline.end - timeline.first - stepping
        if stepping < 0 or export < 0:
            return None
        return cls(
            start_seconds=round(timeline.first, 3),
            step_seconds=round(stepping / (len(timeline.steps) - 1), 4),
            export_seconds=round(export, 3),
        )
