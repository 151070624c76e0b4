"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

A model's *reward* for an answer is beta times its log-probability of the answer less the
reference's, in nats; the loss of a pair is -log sigmoid(reward of the chosen answer - reward of the
rejected one). The reference is the model as training begins, its weights quantized already, so that
every margin begins at 0: against the base in bf16, rounding alone moved the log-probabilities of
answers of up to 216 tokens by up to 6 nats, and margins by up to 0.8 (16 pairs, SmolLM2, beta 0.1).
Its log-probability of each answer is computed once before the first step (`train.reference`) and
comes with the microbatch, so no second model is held. What is given up: label smoothing, length
normalization and the other losses of that family.
"""

import math

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.data.sequences import Item, Pair
from falqon_core.objectives.loss import sequence_log_probabilities


def reward_margins(log_probabilities: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return the reward of the chosen answer minus that of the rejected one, fp32 [P]. Both
    arguments are fp32 [P, 2], (chosen, rejected), in nats.
    """
    rewards = beta * (log_probabilities - reference)
    return rewards[:, 0] - rewards[:, 1]


class Dpo:
    """The DPO loss a pair, with the share of pairs whose chosen answer has the greater reward, and
    the mean margin.
    """

    figures: tuple[str, ...] = ("loss", "reward_accuracy", "reward_margin")
    untouched_loss: float | None = math.log(2)  # All margins are 0.

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def count(self, item: Microbatch | Item) -> int:
        """Return the number of pairs. Raises `AssertionError` where items are no pairs."""
        assert isinstance(item, Microbatch | Pair), "pairs only"
        return item.num_pairs

    def loss(
        self, model: PreTrainedModel, microbatch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # fp32 [P, 2]: sequences lie as chosen, rejected, chosen, rejected, ..
        """Return the summed loss, fp32 [], and the sums of loss, of pairs won and of margins."""
        log_probabilities = sequence_log_probabilities(model, microbatch).view(-1, 2)
        reference = microbatch.reference
        if reference is None:  # Before the first step the model is its own reference.
            reference = log_probabilities.detach()
        margins = reward_margins(
            log_probabilities, reference.to(log_probabilities.device), self.beta
        )
        summed = -F.logsigmoid(margins).sum()
        sums = (summed.detach(), (margins > 0).sum(), margins.detach().sum())
        return summed, dict(zip(self.figures, sums, strict=True))
