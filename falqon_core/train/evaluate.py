"""Loss and token accuracy over the whole validation set, as training computes them but without gradients."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.methods.loss import microbatch_loss


class Score(NamedTuple):
    """Means over all labels: loss in nats a token, accuracy in 0..1."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: PreTrainedModel, microbatches: Sequence[Microbatch]) -> Score:
    loss, correct, labels = 0.0, 0, 0
    for microbatch in microbatches:
        summed, num_correct = microbatch_loss(model, microbatch)
        loss += summed.item()
        correct += int(num_correct)
        labels += microbatch.num_labels
    return Score(loss / labels, correct / labels)
