"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

A model's *reward* for an answer is beta times how much more probable it finds the answer than the
reference does, in nats; the loss of a pair is -log sigmoid(reward of the chosen answer - reward of
the rejected one). The reference is the model as training begins, its weights quantized already, so
that every margin begins at 0: against the base in bf16, rounding alone moved the log-probabilities
of answers of up to 216 tokens by up to 6 nats, and margins by up to 0.8 (16 pairs, SmolLM2, beta
0.1). What it says of each answer is computed once before the first step (`train.reference`) and
comes with the microbatch, so no second model is held. What is given up: label smoothing, length
normalization and the other losses of that family.
"""

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.data.sequences import Item, Pair
from falqon_core.objectives.loss import sequence_log_probabilities


def reward_margins(log_probabilities: Tensor, reference: Tensor, beta: float) -> Tensor:
    """fp32 [P]: reward of the chosen answer minus that of the rejected one. Both arguments fp32 [P,
    2], (chosen, rejected), in nats.
    """
    rewards = beta * (log_probabilities - reference)
    return rewards[:, 0] - rewards[:, 1]


class Dpo:
    """A loss per pair, and how often and by how much the chosen
    answer's reward is the greater.
    """

    figures: tuple[str, ...] = ("loss", "reward_accuracy", "reward_margin")

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def count(self, item: Microbatch | Item) -> int:
        assert isinstance(item, Microbatch | Pair), "pairs only"
        return item.num_pairs

    def loss(
        self, model: PreTrainedModel, microbatch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        log_probabilities = sequence_log_probabilities(model, microbatch).view(-1, 2)
        reference = microbatch.reference
        if reference is None:  # the model is its own, as before the first step
            reference = log_probabilities.detach()
        margins = reward_margins(
            log_probabilities, reference.to(log_probabilities.device), self.beta
        )
        summed = -F.logsigmoid(margins).sum()
        sums = (summed.detach(), (margins > 0).sum(), margins.detach().sum())
        return summed, dict(zip(self.figures, sums, strict=True))
