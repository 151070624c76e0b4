"""The time that a training takes on one machine beside its arithmetic, measured by a very short one
before any job has run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Self

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Timeline:
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
        """Return the calibration from a training; None where it has too few steps. A step takes the
        median of the second half; the longer times of earlier ones, while the process starts, count
        as start.
        """
        if len(timeline.steps) < 2:
            return None
        durations = [later - earlier for earlier, later in pairwise(timeline.steps)]
        stepping = sum(durations)
        step = median(durations[len(durations) // 2 :])
        export = timeline.end - timeline.first - stepping
        if step < 0 or export < 0:
            return None
        return cls(
            start_seconds=round(timeline.first + max(0.0, stepping - len(durations) * step), 3),
            step_seconds=round(step, 4),
            export_seconds=round(export, 3),
        )
