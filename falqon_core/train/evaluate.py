"""Loss and token accuracy over a validation set: sums over all labels, divided once.

Each rank takes whole microbatches and all sum up in the same order, so the figures do not depend on the number of processes.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.methods.loss import microbatch_loss
from falqon_core.train.distributed import ALONE, World, shares


@torch.no_grad()
def evaluate(model: PreTrainedModel, microbatches: Sequence[Microbatch], world: World = ALONE) -> tuple[float, float]:
    """-> (mean loss in nats per label, fraction of labels predicted right), the same on every rank."""
    sums = torch.zeros(len(microbatches), 2, dtype=torch.float64)  # per microbatch: loss, correct predictions
    with world.together():
        for index in shares([one.num_tokens for one in microbatches], world.size)[world.rank]:
            if microbatches[index].num_labels:
                loss, correct = microbatch_loss(model, microbatches[index])
                sums[index, 0], sums[index, 1] = loss.item(), correct.item()
    world.add_up_tensor(sums)
    num_labels = max(1, sum(one.num_labels for one in microbatches))
    return sum(sums[:, 0].tolist()) / num_labels, sum(sums[:, 1].tolist()) / num_labels
