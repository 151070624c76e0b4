"""The health of a training, from the messages of its trainer.

The training loss is compared between windows of steps: the first of the training, the best and the
newest; of a training of a few steps, its two halves. Two windows differ if their means do by more
than two standard errors of that difference. It is compared at most `MAX_CHECKS` times, so that a
loss near a bound does not change its finding with every step.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence

from falqon_core.contract.config import Recipe
from falqon_core.contract.health import HealthChange, HealthCode, HealthFinding
from falqon_core.contract.messages import (
    Evaluated,
    Merged,
    Started,
    StepMetrics,
    UntouchedEvaluated,
)

MAX_CHECKS = 20
MIN_WINDOW = 5
MAX_WINDOW = 20
WINDOWS = 6  # of a short training
LEAST_STEPS = 4  # of a training whose losses are compared
MIN_STEPS = 3  # windows before the first check
NOISE = 2.0  # standard errors
# A loss diverges where it rises by all of these above its lowest window, or by the first of them
# above the first window.
RISE_ERRORS = 4.0
RISE_OF_LOWEST = 0.5
RISE_OF_FIRST = 0.1
# Evaluations beyond the best one, all higher by this share of it. Below the loss before training by
# as much, a model is better than its base.
NUM_WORSE = 2
WORSE_SHARE = 0.02
OF_TRAINING_LOSS: tuple[HealthCode, ...] = ("diverging", "not_learning")
FAR_FACTOR = 8.0  # between a learning rate and the automatic one
MOST = 0.5  # share of the sequences that are cut or left out


class LearningMonitor:
    """The findings of one attempt; those of the attempt before, and its first loss, go on."""

    def __init__(
        self,
        recipe: Recipe | None,
        findings: Sequence[HealthFinding] = (),
        first_loss: float | None = None,
        automatic_rate: float | None = None,
    ) -> None:
        """`first_loss`: mean of the first window in nats, None before it is known.
        `automatic_rate`: that of the model; None: that at the width of the measurements.
        """
        self._automatic_rate = automatic_rate
        self.first_loss = first_loss
        self._has_earlier_steps = first_loss is not None
        self._recipe = recipe
        self._findings: dict[HealthCode, HealthFinding] = {each.code: each for each in findings}
        self._changes: list[HealthChange] = []
        self._first_variance: float | None = None
        self._lowest_loss: float | None = None
        self._losses: deque[float] = deque(maxlen=MAX_WINDOW)
        self._num_steps = 0  # of this attempt
        self._has_ended = False
        self._untouched_loss: float | None = None
        self._merged: Merged | None = None
        self._validations: list[tuple[int, float]] = []

    @property
    def findings(self) -> list[HealthFinding]:
        """Return the current ones."""
        return list(self._findings.values())

    def take_changes(self) -> list[HealthChange]:
        """Return the changes since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def started(self, message: Started) -> None:
        """Judge the data and the recipe; take the best evaluation over from the checkpoint."""
        if message.best_step is not None and message.best_valid_loss is not None:
            self._validations = [(message.best_step, message.best_valid_loss)]
        left_out = message.num_left_out_records
        shortened, total = message.num_truncated_records + left_out, message.num_examples + left_out
        self._set("truncated", shortened > MOST * total, message.start_step, total, shortened)
        recipe = self._recipe
        if recipe is not None and recipe.learning_rate is not None:
            automatic = self._automatic_rate or recipe.automatic_rate().value
            ratio = recipe.learning_rate / automatic
            is_far = not 1 / FAR_FACTOR < ratio < FAR_FACTOR
            self._set("rate", is_far, message.start_step, automatic, recipe.learning_rate)

    def step(self, message: StepMetrics) -> None:
        """Judge the training loss, now and then; that of a range test is meant to diverge."""
        is_range_test = self._recipe is not None and self._recipe.find_rate
        if is_range_test or message.total_steps < LEAST_STEPS:
            return
        window = max(MIN_WINDOW, min(MAX_WINDOW, message.total_steps // WINDOWS))
        window = min(window, message.total_steps // 2)
        if self._losses.maxlen != window:
            self._losses = deque(self._losses, window)
        self._has_ended = message.step == message.total_steps
        self._losses.append(message.train_loss)
        self._num_steps += 1
        if self._num_steps < window:
            return
        recent = statistics.fmean(self._losses)
        variance = statistics.variance(self._losses, recent)
        if self.first_loss is None:
            self.first_loss = recent
        if self._first_variance is None:
            self._first_variance = variance
        if self._lowest_loss is None or recent < self._lowest_loss:
            self._lowest_loss = recent
        interval = max(window, message.total_steps // MAX_CHECKS)
        num_compared = 1 if self._has_earlier_steps else 2
        is_last = message.step == message.total_steps and self._num_steps >= num_compared * window
        is_due = message.step % interval == 0 and self._num_steps >= MIN_STEPS * window
        if is_last or is_due:
            error = math.sqrt((self._first_variance + variance) / window)
            self._judge_loss(message.step, recent, error)

    def untouched_evaluated(self, message: UntouchedEvaluated) -> None:
        self._untouched_loss = message.valid_loss

    def merged(self, message: Merged) -> None:
        self._merged = message

    def finished(self) -> None:
        """Compare the model that is handed out with its base. Where it is clearly better on records
        that it has not seen, nothing in the training loss makes it no better.
        """
        if self._untouched_loss is None or not self._validations:
            return
        step, loss = self._best_validation()
        if self._merged is not None:
            step, loss = self._merged.step, self._merged.valid_loss_of_weights
        untouched = self._untouched_loss
        self._set("no_better", loss >= untouched, step, untouched, loss)
        if loss < untouched * (1 - WORSE_SHARE):
            for code, finding in self._findings.items():
                if code in OF_TRAINING_LOSS:
                    self._findings[code] = finding.model_copy(update={"is_below_start": True})

    def evaluated(self, message: Evaluated) -> None:
        """Judge the validation loss."""
        self._validations.append((message.step, message.valid_loss))
        step, best = self._best_validation()
        later = [loss for at, loss in self._validations if at > step]
        if not later:
            self._set("overfitting", False, step, best, best)
        elif len(later) >= NUM_WORSE and min(later[-NUM_WORSE:]) > best * (1 + WORSE_SHARE):
            self._set("overfitting", True, step, best, later[-1])

    def _best_validation(self) -> tuple[int, float]:
        return min(self._validations, key=lambda each: (each[1], each[0]))

    def _judge_loss(self, step: int, recent: float, error: float) -> None:
        assert self.first_loss is not None, "a window is full"
        assert self._lowest_loss is not None, "a window is full"
        first, lowest = self.first_loss, self._lowest_loss
        rise = max(RISE_ERRORS * error, RISE_OF_LOWEST * lowest, RISE_OF_FIRST * first)
        has_risen = recent - lowest > rise
        is_above_start = recent - first > RISE_ERRORS * error
        has_fallen = first - recent > NOISE * error
        before = lowest if has_risen else first
        diverges = has_risen or is_above_start
        self._set("diverging", diverges, step, before, recent, is_below_start=has_fallen)
        is_flat = not has_fallen and "diverging" not in self._findings
        self._set("not_learning", is_flat, step, first, recent)

    def _set(
        self,
        code: HealthCode,
        holds: bool,
        step: int,
        before: float,
        now: float,
        *,
        is_below_start: bool = False,
    ) -> None:
        """Record a finding that holds, or end one; figures of one that goes on are renewed."""
        known = self._findings.get(code)
        if holds:
            finding = HealthFinding(
                code=code, step=step, before=before, now=now, is_below_start=is_below_start
            )
            self._findings[code] = finding
            if known is None:
                self._changes.append(HealthChange(finding, has_ended=self._has_ended))
        elif known is not None:
            del self._findings[code]
            self._changes.append(HealthChange(known, is_over=True))
