"""The times of steps and of what interrupts them, and so how long the attempt still takes. The
caller gives all times, in seconds.
"""

import statistics
from collections import deque

from falqon_core.contract.automatic import EVALUATION_COST
from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import Started
from falqon_core.estimate.eta import Eta, Interruptions, estimate_eta, num_left

# So many times what is usual.
HANG_STEPS = 20
HANG_PAUSES = 5
# Loading, and merging after the last step, take longer than steps, and nothing is known of them.
HANG_CLOSING = 6
# Reading all pairs of a large file before the first step takes hours, and only logs report it. By
# default it may take a day.
HANG_LOGS = 144
NUM_KEPT = 256  # Latest steps, evaluations and checkpoints.


class StepTiming:
    def __init__(self, recipe: Recipe | None) -> None:
        self._recipe = recipe
        self._steps: deque[float] = deque(maxlen=NUM_KEPT)
        self._evaluations: deque[float] = deque(maxlen=NUM_KEPT)
        self._checkpoints: deque[float] = deque(maxlen=NUM_KEPT)
        self._num_examples = 0
        self._num_validation_records = 0
        self._elapsed: float | None = None  # Trainer's time at its last step.
        self._heard_at = 0.0
        self._paused = 0.0
        self._closing = 0.0

    def started(self, message: Started, now: float, overhead: float | None) -> None:
        """Note that loading is done; what the `overhead` of earlier attempts needed beyond it comes
        after the last step, except of a range test, which has no model to export.
        """
        self._num_examples = message.num_examples
        self._num_validation_records = message.num_validation_records
        if overhead is not None and not self._is_range_test:
            self._closing = max(0.0, overhead - now)

    def step(self, elapsed: float, now: float) -> None:
        """Measure a step. The first of an attempt measures nothing: it includes warming up."""
        if self._elapsed is not None:
            self._steps.append(max(0.0, elapsed - self._elapsed - self._paused))
        self._elapsed = elapsed
        self._heard_at = now
        self._paused = 0.0

    def evaluated(self, now: float) -> None:
        self._evaluations.append(self._pause(now))

    def sampled(self, now: float) -> None:
        """Count samples as part of the evaluation before them."""
        seconds = self._pause(now)
        if self._evaluations:
            self._evaluations[-1] += seconds

    def checkpointed(self, now: float) -> None:
        self._checkpoints.append(self._pause(now))

    @property
    def seconds_per_step(self) -> float | None:
        """Return the median; None before two steps are known."""
        return round(statistics.median(self._steps), 4) if self._steps else None

    def remaining(self, step: int, total_steps: int) -> Eta | None:
        """Return None before two steps are known."""
        return estimate_eta(
            self._steps, total_steps - step, self._pauses(step, total_steps), self._closing
        )

    def hang_timeout(self, step: int, total_steps: int, floor: float) -> float:
        """Return the seconds of silence after this step that count as a hang; at least `floor`."""
        may_be_over = (
            self._paused > 0
            and self._recipe is not None
            and self._recipe.early_stopping_patience is not None
        )
        if not self._steps or step >= total_steps or may_be_over:
            # The merged model is evaluated, too.
            return HANG_CLOSING * floor + HANG_PAUSES * max(self._evaluations, default=0.0)
        usual = [
            max(pauses.measured, default=pauses.assumed)
            for pauses in self._pauses(step, total_steps)
        ]
        return max(
            floor,
            HANG_STEPS * statistics.median(self._steps),
            HANG_PAUSES * max(usual, default=0.0),
        )

    @property
    def _is_range_test(self) -> bool:
        return self._recipe is not None and self._recipe.find_rate

    def _pause(self, now: float) -> float:
        seconds = max(0.0, now - self._heard_at)
        self._heard_at = now
        self._paused += seconds
        return seconds

    def _pauses(self, step: int, total_steps: int) -> list[Interruptions]:
        """Return the pauses between steps that are still to come. Until one was measured, an
        evaluation counts by the records that it reads, a checkpoint as one step."""
        if self._recipe is None or self._is_range_test or not self._steps:
            return []
        batch_size = self._recipe.batch_size or 1
        mean = statistics.fmean(self._steps)
        evaluations = 0
        if self._num_validation_records:
            every = self._recipe.evaluation_steps(self._num_examples, self._num_validation_records)
            evaluations = num_left(every, step, total_steps)
        checkpoints = num_left(self._recipe.checkpoint_every, step, total_steps)
        assumed = EVALUATION_COST * mean * self._num_validation_records / batch_size
        return [
            Interruptions(self._evaluations, evaluations, assumed),
            Interruptions(self._checkpoints, checkpoints, mean),
        ]
