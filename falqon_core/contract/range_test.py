"""A learning-rate range test (Smith, arXiv 1506.01186): a few steps of rising rate, and the rate
that their losses propose.

A point compares two losses on the same batch: after the step with its rate, and of the model before
any step. So a batch that is harder than the one before it is no rise.
"""

import statistics
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.figures import MAX_MEASURE, Measure

NUM_STEPS = 20
SPAN = 30.0  # From the rate in the middle, which is the automatic one, to the lowest and highest.
MAX_POINTS = 100
WINDOW = 3  # points of the running mean
NOISE = 2.0  # standard deviations that a fall exceeds
LEAST_FALL = 0.01  # of the first loss; a smaller fall has learned nothing
RISE = 0.1  # of the first loss, above it: all that was learned is lost again
# The usual rules take the rate of the steepest descent, or a tenth of that of the lowest loss. Of
# 20 points the slope is mostly noise and the lowest one is not. It lay where whole trainings have
# their best rate: with SmolLM2 on two tasks at 6e-4 twice for FALQON, whose best is 5e-4, and at
# 1.7e-3 and 2.4e-3 for LoRA, whose best is 2e-3. The model of a range test has already learned from
# all rates below, so that half of it is proposed; a tenth was four to eight times too low there.
SAFE_SHARE = 0.5

Outcome = Literal["found", "still_falling", "flat", "diverging"]


class RangePoint(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: Annotated[float, Field(gt=0, le=MAX_MEASURE)]
    loss_change: Measure = Field(
        description="loss after the step with this rate, minus that of the model before any step "
        "on the same records"
    )


class RangeTest(BaseModel):
    """The result of a range test. `still_falling`: a higher rate than the highest one may be
    better than the proposal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    points: list[RangePoint] = Field(max_length=MAX_POINTS)
    outcome: Outcome
    proposal: Annotated[float, Field(gt=0, le=1)] | None

    @property
    def message(self) -> str:
        """Return the sentence of its outcome."""
        match self.outcome:
            case "found":
                return f"a learning rate of {self.proposal:g} is proposed"
            case "still_falling":
                return (
                    f"a learning rate of {self.proposal:g} is proposed; the loss was still falling "
                    "at the highest rate, so a higher one may learn faster"
                )
            case "flat":
                return (
                    "no learning rate is proposed: the loss did not fall by more than its noise at "
                    "any rate; look at the records as the model reads them"
                )
            case "diverging":
                return (
                    "no learning rate is proposed: the loss diverged at a low rate, before it had "
                    "fallen; test again around a tenth of the rate"
                )


def rate_of_step(middle: float, step: int) -> float:
    """Return the rate of `step`, counted from 0: from `middle` / `SPAN` to `middle` x `SPAN`."""
    return float(middle * SPAN ** (2 * step / (NUM_STEPS - 1) - 1))


def has_diverged(changes: Sequence[float], first_loss: float) -> bool:
    """Return True once the newest losses are above the one before any step."""
    smoothed = _smooth(changes)
    return bool(smoothed) and smoothed[-1] > RISE * first_loss


def propose_rate(points: Sequence[RangePoint], first_loss: float, *, diverged: bool) -> RangeTest:
    """Return the result of a range test. `first_loss`: of the model before any step; `diverged`:
    the test ended before its last step.
    """
    changes = [point.loss_change for point in points]
    smoothed = _smooth(changes)
    lowest = min(range(len(points)), key=smoothed.__getitem__, default=0)
    if not smoothed or -smoothed[lowest] <= _least_fall(changes, smoothed, lowest, first_loss):
        # Above the rate in the middle a loss diverges after each useful rate had its turn.
        outcome: Outcome = "diverging" if diverged and len(points) < NUM_STEPS // 2 else "flat"
        return RangeTest(points=list(points), outcome=outcome, proposal=None)
    proposal = min(1.0, SAFE_SHARE * points[lowest].learning_rate)
    outcome = "still_falling" if lowest == len(points) - 1 and not diverged else "found"
    return RangeTest(points=list(points), outcome=outcome, proposal=float(f"{proposal:.2g}"))


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the centred running mean."""
    half = WINDOW // 2
    return [
        statistics.fmean(values[max(0, place - half) : place + half + 1])
        for place in range(len(values))
    ]


def _least_fall(
    changes: Sequence[float], smoothed: Sequence[float], lowest: int, first_loss: float
) -> float:
    """Return the fall of the loss that its noise, up to its lowest point, could make."""
    residuals = [changes[place] - smoothed[place] for place in range(lowest + 1)]
    return max(NOISE * statistics.pstdev(residuals), LEAST_FALL * first_loss)
