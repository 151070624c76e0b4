"""A training by the trainer's own step, for benchmarks that write no files."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.methods import Trainable
from falqon_core.objectives.supervised import Supervised
from falqon_core.train.optimizer import Optimizer
from falqon_core.train.step import StepBatch, train_step


class OurTraining:
    """A model that a method has prepared, with its optimizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: Trainable,
        recipe: Recipe,
        first: Sequence[Microbatch],
    ) -> None:
        """`recipe` is resolved; `first` are the microbatches by which a method may choose."""
        self.model = model
        self.method = method
        method.prepare(model, first)
        self._optimizer = Optimizer(
            method.parameters(),
            recipe.weight_decay,
            recipe.max_grad_norm,
            relative_rates=method.relative_rates(),
        )

    def step(self, microbatches: Sequence[Microbatch], rate: float) -> float:
        """Run one optimizer step. Return its loss, the mean over all labels."""
        num_labels = sum(microbatch.num_labels for microbatch in microbatches)
        num_tokens = sum(microbatch.num_tokens for microbatch in microbatches)
        batch = StepBatch(1, microbatches, num_labels, num_tokens)
        result = train_step(self.model, self.method, Supervised(), self._optimizer, batch, rate)
        return result.metrics["loss"]
