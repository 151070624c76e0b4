"""The figures of an objective over a validation set: sums over all labels or pairs, divided once.

Each rank takes whole microbatches and all sum up in the same order, so the figures do not depend on
the number of processes.
"""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from falqon_core.contract.errors import LossNotFinite
from falqon_core.data.loader import Microbatch
from falqon_core.objectives import Objective
from falqon_core.train.distributed import ALONE, ProcessGroup, shares


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    microbatches: Sequence[Microbatch],
    objective: Objective,
    group: ProcessGroup = ALONE,
) -> dict[str, float]:
    """Return the mean of each of the objective's figures, the same on every rank.

    Raises `LossNotFinite` on all ranks.
    """
    sums = torch.zeros(len(microbatches), len(objective.figures), dtype=torch.float64)
    lengths = [microbatch.num_tokens for microbatch in microbatches]
    with group.barrier_or_raise():
        for index in shares(lengths, group.size)[group.rank]:
            if objective.count(microbatches[index]):
                _, figures = objective.loss(model, microbatches[index])
                sums[index] = torch.tensor(
                    [figures[name].item() for name in objective.figures], dtype=torch.float64
                )
    group.all_reduce_sum_tensor(sums)
    count = max(1, sum(objective.count(microbatch) for microbatch in microbatches))
    columns = sums.t().tolist()
    means = {
        name: sum(column) / count for name, column in zip(objective.figures, columns, strict=True)
    }
    if not all(map(math.isfinite, means.values())):
        raise LossNotFinite(
            f"the validation loss ({means['loss']}) is not finite; a lower learning rate may help",
            "learning_rate",
        )
    return means
