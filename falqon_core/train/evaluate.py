"""The figures of an objective over a validation set: sums over all labels or pairs, divided once.

Each rank takes whole microbatches and all sum up in the same order, so the figures do not depend on the number of processes.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.methods.objective import Objective
from falqon_core.train.distributed import ALONE, ProcessGroup, shares


@torch.no_grad()
def evaluate(
    model: PreTrainedModel, microbatches: Sequence[Microbatch], objective: Objective, world: ProcessGroup = ALONE
) -> dict[str, float]:
    """-> the mean of each of the objective's figures, the same on every rank."""
    sums = torch.zeros(len(microbatches), len(objective.figures), dtype=torch.float64)
    with world.barrier_or_raise():
        for index in shares([one.num_tokens for one in microbatches], world.size)[world.rank]:
            if objective.count(microbatches[index]):
                figures = objective.loss(model, microbatches[index])[1]
                sums[index] = torch.tensor([figures[name] for name in objective.figures], dtype=torch.float64)
    world.all_reduce_sum_tensor(sums)
    count = max(1, sum(objective.count(one) for one in microbatches))
    return {name: sum(column) / count for name, column in zip(objective.figures, sums.t().tolist(), strict=True)}
