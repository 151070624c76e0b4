"""Findings on the health of a training, with the way out of each."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from falqon_core.contract.figures import Measure, Step

HealthCode = Literal["no_better", "diverging", "not_learning", "overfitting", "truncated", "rate"]
FAILINGS: tuple[HealthCode, ...] = ("no_better", "diverging", "not_learning")


class HealthFinding(BaseModel):
    """Something that a user should know while it trains. `step`: where it was found, of overfitting
    and of a model no better than its base where the validation loss was lowest. `before` and `now`:
    the two figures that are compared. `is_below_start`: a training loss that has risen is still
    below that of the beginning, or the held-out loss of the model that is handed out is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    code: HealthCode
    step: Step
    before: Measure
    now: Measure
    is_below_start: bool = False

    @property
    def is_failing(self) -> bool:
        """Return True where a training that ends with it is no better than it was."""
        return self.code in FAILINGS and not self.is_below_start

    @property
    def message(self) -> str:
        """Return what was found."""
        before, now = self.before, self.now
        match self.code:
            case "no_better":
                return (
                    "the model is no better than its base on held-out records: their loss was "
                    f"{before:.4g} before training and is {now:.4g} by the model of step "
                    f"{self.step}"
                )
            case "diverging":
                return f"the training loss has risen, from {before:.4g} to {now:.4g}"
            case "not_learning":
                return (
                    f"the training loss has not fallen by more than its noise in {self.step} "
                    f"steps: {before:.4g} at the beginning, {now:.4g} now"
                )
            case "overfitting":
                return (
                    f"overfitting since step {self.step}: the validation loss was {before:.4g} "
                    f"there and is {now:.4g} now"
                )
            case "truncated":
                return (
                    f"{now:.0f} of {before:.0f} sequences are longer than max_seq_length and cut, "
                    "or left out where nothing of the answer remains"
                )
            case "rate":
                return (
                    f"the learning rate {now:.2g} is far from {before:.2g}, the automatic one of "
                    "this method"
                )

    def advise(self, *, has_ended: bool) -> str:
        """Return the way out, of a training that goes on or has ended."""
        match self.code:
            case "no_better":
                return (
                    "use the model that it began from, or train it again at a third of the "
                    "learning rate or on more records"
                )
            case "diverging" if has_ended:
                return "train it again at a third of the learning rate"
            case "diverging":
                return "cancel it and try a third of the learning rate"
            case "not_learning":
                return (
                    "try a higher learning rate or more epochs, and look at the records as the "
                    "model reads them"
                )
            case "overfitting":
                return (
                    f"the model of step {self.step} is the one handed out; fewer epochs or "
                    "early_stopping_patience save the rest, more records help"
                )
            case "truncated":
                return "raise max_seq_length or shorten the records"
            case "rate":
                return "leave it on auto unless it was chosen on this data"


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A finding that is new, or over."""

    finding: HealthFinding
    is_over: bool = False
    has_ended: bool = False  # No step follows.

    @property
    def message(self) -> str:
        """Return the sentence of the event."""
        finding = self.finding
        if self.is_over:
            return f"Health: no longer {finding.code.replace('_', ' ')}"
        return f"Health: {finding.message}; {finding.advise(has_ended=self.has_ended)}"
