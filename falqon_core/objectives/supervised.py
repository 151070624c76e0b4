from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.data.sequences import Item
from falqon_core.objectives.loss import microbatch_loss


class Supervised:
    """Next-token cross entropy, in nats per label."""

    figures: tuple[str, ...] = ("loss", "mean_token_accuracy")
    untouched_loss: float | None = None

    def count(self, item: Microbatch | Item) -> int:
        """Return the number of labels."""
        return item.num_labels

    def loss(
        self, model: PreTrainedModel, microbatch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed cross entropy, fp32 [], and sums of loss and right predictions."""
        summed, num_correct = microbatch_loss(model, microbatch)
        return summed, {"loss": summed.detach(), "mean_token_accuracy": num_correct}
