"""What a training minimises: the loss of one microbatch, and the figures that are told beside it.

A loss is a sum over labels or over pairs; the trainer divides it by the count of a whole step, so that how a step is cut into
microbatches changes nothing. What is given up: losses that need more than one microbatch at once.
"""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.data.sequences import Pair, Sequence
from falqon_core.methods.dpo import Preference
from falqon_core.methods.loss import microbatch_loss


class Objective(Protocol):
    figures: tuple[str, ...]  # the names of the sums, "loss" among them

    def count(self, item: Microbatch | Sequence | Pair) -> int:
        """What the loss is the mean of: labels, or pairs. A microbatch that counts 0 has no loss."""

    def loss(self, model: PreTrainedModel, microbatch: Microbatch) -> tuple[Tensor, dict[str, float]]:
        """-> (summed loss fp32 [], differentiable; sums over the microbatch of everything in `figures`)."""


class Supervised:
    """Next-token cross entropy, in nats per label."""

    figures = ("loss", "mean_token_accuracy")

    def count(self, item: Microbatch | Sequence | Pair) -> int:
        return item.num_labels

    def loss(self, model: PreTrainedModel, microbatch: Microbatch) -> tuple[Tensor, dict[str, float]]:
        summed, num_correct = microbatch_loss(model, microbatch)
        return summed, {"loss": summed.item(), "mean_token_accuracy": num_correct.item()}


def objective_of(recipe: Recipe) -> Objective:
    """`recipe` is resolved."""
    if recipe.method == "dpo":
        assert recipe.beta is not None, "resolve the recipe first"
        return Preference(recipe.beta)
    return Supervised()


def means(objective: Objective, sums: Iterable[dict[str, float]], count: int) -> dict[str, float]:
    """The figures of many microbatches that count `count` together."""
    totals = dict.fromkeys(objective.figures, 0.0)
    for one in sums:
        for name, value in one.items():
            totals[name] += value
    return {name: value / max(1, count) for name, value in totals.items()}
