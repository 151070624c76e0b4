"""Loss and token accuracy over a validation set: sums over all labels, divided once."""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.methods.loss import microbatch_loss


@torch.no_grad()
def evaluate(model: PreTrainedModel, microbatches: Iterable[Microbatch]) -> tuple[float, float]:
    """-> (mean loss in nats per label, fraction of labels predicted right)."""
    loss, num_correct, num_labels = 0.0, 0, 0
    for microbatch in microbatches:
        if microbatch.num_labels:
            summed, correct = microbatch_loss(model, microbatch)
            loss += summed.item()
            num_correct += int(correct.item())
            num_labels += microbatch.num_labels
    return loss / max(1, num_labels), num_correct / max(1, num_labels)
