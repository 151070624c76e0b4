"""The figures of an objective over a validation set: sums over all labels or pairs, divided once."""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.methods.objective import Objective, means


@torch.no_grad()
def evaluate(model: PreTrainedModel, microbatches: Iterable[Microbatch], objective: Objective) -> dict[str, float]:
    """-> the mean of each of the objective's figures."""
    counted = [microbatch for microbatch in microbatches if objective.count(microbatch)]
    sums = [objective.loss(model, microbatch)[1] for microbatch in counted]
    return means(objective, sums, sum(objective.count(microbatch) for microbatch in counted))
