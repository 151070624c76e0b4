"""The quantity that a training minimises: the loss of one microbatch, and the figures that come
with it.

A loss is a sum over labels or over pairs; the trainer divides it by the count of a whole step, so
that the cut of a step into microbatches changes nothing. What is given up: losses that need more
than one microbatch at once.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.data.sequences import Item
from falqon_core.objectives.dpo import Dpo
from falqon_core.objectives.supervised import Supervised


class Objective(Protocol):
    """A loss of pairs or labels, and its figures."""

    figures: tuple[str, ...]  # Names of the sums, "loss" among them.
    untouched_loss: float | None  # before the first step, where it is the same for any model

    def count(self, item: Microbatch | Item) -> int:
        """Return the number that the loss is the mean over: labels, or pairs. A microbatch that
        counts 0 has no loss.
        """

    def loss(
        self, model: PreTrainedModel, microbatch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss, fp32 [] and differentiable, and the sums over the microbatch of
        everything in `figures`, each [], on the model's device, without a wait for them.
        """


def create_objective(recipe: Recipe) -> Objective:
    """Return the objective of a resolved recipe."""
    if recipe.objective == "supervised":
        return Supervised()
    assert recipe.beta is not None, "resolve the recipe first"
    return Dpo(recipe.beta)


def mean_figures(
    objective: Objective, sums: Iterable[dict[str, Tensor]], count: int
) -> dict[str, float]:
    """Return the figures of many microbatches that count `count` together, read at once."""
    # One row [figures] a microbatch, and one transfer from the device for all of them.
    rows = [torch.stack([figures[name] for name in objective.figures]) for figures in sums]
    totals = dict.fromkeys(objective.figures, 0.0)
    for row in torch.stack(rows).tolist() if rows else []:
        for name, value in zip(objective.figures, row, strict=True):
            totals[name] += value
    return {name: value / max(1, count) for name, value in totals.items()}
