"""What a job may train with. A method is what the trainer needs to know of an algorithm, and nothing more."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch


class Method(Protocol):
    """Owns how a model is changed to train; the trainer owns data, optimizer and time."""

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Change `model` in place for a fresh start. The microbatches are those of the first step, for methods that look at data."""

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Change `model` in place to where a checkpoint was; `state` is what `state()` gave."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer updates, by name."""

    def after_step(self) -> float:
        """Called after each optimizer step. -> the share of the quantized values that it changed, 0 to 1; 0 where nothing is quantized."""

    def state(self) -> dict[str, Tensor]:
        """Everything that is needed, beside the base model, to be where we are."""
