"""The figures of an objective over a validation set: sums over all labels or pairs, divided once.

Each rank takes whole microbatches and all sum up in the same order, so the figures do not depend on
the number of processes.
"""

import math
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from falqon_core.contract.errors import LossNotFinite
from falqon_core.data.microbatch import MicrobatchPlan
from falqon_core.objectives import Objective
from falqon_core.train.distributed import SINGLE_PROCESS, ProcessGroup, shares
from falqon_core.train.progress_counter import ProgressCounter
from falqon_core.train.signals import StoppedBeforeFirstStep


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    plan: MicrobatchPlan,
    objective: Objective,
    group: ProcessGroup = SINGLE_PROCESS,
    report: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Return the mean of each of the objective's figures, the same on every rank.

    Progress of the rank's share goes to `report` twice a minute. Raises `LossNotFinite` on all
    ranks where the validation loss is not a number, and `StoppedBeforeFirstStep` where `stop`
    returns True on any.
    """
    # fp64 [microbatches, figures]: each rank fills its rows, and zeros add nothing.
    sums = torch.zeros(len(plan.groups), len(objective.figures), dtype=torch.float64)
    lengths = [sum(map(len, items)) for items in plan.groups]
    counts = [sum(map(objective.count, items)) for items in plan.groups]
    is_stopped = False
    with group.barrier_or_raise():
        share = shares(lengths, group.size)[group.rank]
        mine = [index for index in share if counts[index]]
        counter = ProgressCounter("validation", len(mine), "batches", report)
        for index in group.in_step(mine):
            is_stopped = is_stopped or stop()
            with group.run(trains=False):
                if index is not None and not is_stopped:
                    _, figures = objective.loss(model, plan.microbatch(index))
                    sums[index] = torch.tensor(
                        [figures[name].item() for name in objective.figures], dtype=torch.float64
                    )
                    counter.add(1)
    if group.any_rank(is_stopped):
        raise StoppedBeforeFirstStep
    group.all_reduce_sum_tensor(sums)
    count = max(1, sum(counts))
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


def evaluate_untouched(
    model: PreTrainedModel,
    plan: MicrobatchPlan,
    objective: Objective,
    group: ProcessGroup,
    report: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> float:
    """Return the loss of a model before its first step, otherwise as `evaluate`."""
    try:
        return evaluate(model, plan, objective, group, report, stop)["loss"]
    except LossNotFinite as error:
        raise LossNotFinite("the loss is not finite before any training", "model") from error
