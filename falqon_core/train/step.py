"""One optimizer step: forward and backward of its microbatches, clipping, update, and the method's
own work after it.

The loss is the mean over all that the objective counts in the step (labels, pairs), for every cut
into microbatches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from falqon_core.contract.errors import LossNotFinite
from falqon_core.data.loader import Microbatch
from falqon_core.methods import Trainable
from falqon_core.objectives import Objective, mean_figures
from falqon_core.ops.experts import ExpertLoad, take_load
from falqon_core.train.distributed import SINGLE_PROCESS, ProcessGroup
from falqon_core.train.optimizer import Optimizer


@dataclass(frozen=True)
class StepBatch:
    """Step `step`, counted from 1, as one rank computes it: its own `microbatches`, and the counts
    of all ranks together.
    """

    step: int
    microbatches: Sequence[Microbatch]
    total_count: int
    num_tokens: int


@dataclass(frozen=True)
class StepResult:
    """`metrics`: the objective's means, "loss" among them.

    `keys_per_token`: keys that a token attended to on average; `codes_changed`: share of the
    quantized values, 0 to 1.
    """

    metrics: dict[str, float]
    grad_norm: float
    num_tokens: int
    keys_per_token: float
    codes_changed: float
    expert_load: ExpertLoad | None = None  # of this rank's tokens


def train_step(
    model: PreTrainedModel,
    method: Trainable,
    objective: Objective,
    optimizer: Optimizer,
    batch: StepBatch,
    learning_rate: float,
    group: ProcessGroup = SINGLE_PROCESS,
) -> StepResult:
    """Run one optimizer step; `metrics` are the same on every rank.

    Raises `LossNotFinite` where loss or gradient norm is not a number, with the parameters as they
    were.
    """
    sums = []
    counted = [microbatch for microbatch in batch.microbatches if objective.count(microbatch)]
    for microbatch in group.in_step(counted):
        with group.run(trains=True):
            if microbatch is not None:
                loss, figures = objective.loss(model, microbatch)
                # Divided by the count of all ranks, so that summed gradients are those of the mean.
                (loss / batch.total_count).backward()
                sums.append(figures)
    means = mean_figures(objective, sums, batch.total_count)
    metrics = dict(zip(means, group.all_reduce_sum(*means.values()), strict=True))
    group.all_reduce_gradients(method.parameters().values())
    group.all_reduce_max_tensor(method.maxima())
    # The norm is over all trained parameters, the same on every rank.
    grad_norm = optimizer.clip()
    if not (math.isfinite(metrics["loss"]) and math.isfinite(grad_norm)):
        raise LossNotFinite(
            f"step {batch.step}: the loss ({metrics['loss']}) or the gradient's norm ({grad_norm}) "
            "is not finite; a lower learning rate may help",
            "learning_rate",
        )
    optimizer.step(learning_rate)
    codes_changed = method.after_step()
    keys_per_token = _keys_per_token(batch.microbatches)
    return StepResult(
        metrics, grad_norm, batch.num_tokens, keys_per_token, codes_changed, take_load(model)
    )


def _keys_per_token(microbatches: Sequence[Microbatch]) -> float:
    """Count the keys that a token attends to: itself and all before it."""
    num_tokens = sum(microbatch.num_tokens for microbatch in microbatches)
    keys = num_tokens + sum(int(microbatch.position_ids.sum()) for microbatch in microbatches)
    return keys / max(1, num_tokens)
