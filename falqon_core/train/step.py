"""One optimizer step: forward and backward of its microbatches, clipping, update, and the method's own work after it.

The loss is the mean over all that the objective counts in the step (labels, pairs), however it is cut into microbatches.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedModel

from falqon_core.contract.errors import LossNotFinite
from falqon_core.data.loader import Microbatch
from falqon_core.methods import Method
from falqon_core.methods.objective import Objective, means
from falqon_core.train.distributed import ALONE, ProcessGroup
from falqon_core.train.optimizer import Optimizer


class Work(NamedTuple):
    """Step `number`, counted from 1, as one rank does it: its own `microbatches`, and what all ranks together count and read."""

    number: int
    microbatches: Sequence[Microbatch]
    count: int
    num_tokens: int


class StepResult(NamedTuple):
    """`figures`: the objective's means, "loss" among them.

    `keys_per_token`: how many keys a token attended to on average; `codes_changed`: share of the quantized values, 0 to 1.
    """

    figures: dict[str, float]
    grad_norm: float
    num_tokens: int
    keys_per_token: float
    codes_changed: float


def train_step(
    model: PreTrainedModel,
    method: Method,
    objective: Objective,
    optimizer: Optimizer,
    work: Work,
    learning_rate: float,
    world: ProcessGroup = ALONE,
) -> StepResult:
    """Raises `LossNotFinite`, which leaves the parameters as they were."""
    sums = []
    for microbatch in work.microbatches:
        if objective.count(microbatch):
            summed, one = objective.loss(model, microbatch)
            (summed / work.count).backward()
            sums.append(one)
    mine = means(objective, sums, work.count)
    figures = dict(zip(mine, world.all_reduce_sum(*mine.values()), strict=True))
    world.all_reduce_gradients(method.parameters().values())
    grad_norm = optimizer.clip()
    loss = figures["loss"]
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise LossNotFinite(
            f"step {work.number}: the loss ({loss}) or the gradient's norm ({grad_norm}) is not finite; a lower learning rate may help",
            "learning_rate",
        )
    optimizer.step(learning_rate)
    codes_changed = method.after_step()
    return StepResult(figures, grad_norm, work.num_tokens, _keys_per_token(work.microbatches), codes_changed)


def _keys_per_token(microbatches: Sequence[Microbatch]) -> float:
    num_tokens = sum(one.num_tokens for one in microbatches)
    keys = num_tokens + sum(int(one.position_ids.sum()) for one in microbatches)  # a token sees itself and all before it
    return keys / max(1, num_tokens)
