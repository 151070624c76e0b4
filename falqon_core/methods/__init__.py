"""How a model is changed to train: FALQON, and the systems that it is measured against.

A method is what the trainer needs to know of an algorithm, and nothing more; what users need to
know of it is in `contract.methods`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import MethodNotInstalled
from falqon_core.contract.methods import METHODS as SPECS
from falqon_core.contract.methods import MethodName
from falqon_core.data.loader import Microbatch
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.fishman import Fishman
from falqon_core.methods.fp6_lora import Fp6Lora
from falqon_core.methods.fp8_lora import Fp8Lora
from falqon_core.methods.ir_lora import IrLora
from falqon_core.methods.lora import Lora
from falqon_core.methods.qa_lora import QaLora
from falqon_core.methods.qlora import QLora


class Trainable(Protocol):
    """Owns how a model is changed to train; the trainer owns data, optimizer and time."""

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Change `model` in place for a fresh start. The microbatches are those of the first
        steps, for methods that look at data.
        """

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what the optimizer updates, by name."""

    def relative_rates(self) -> dict[str, float]:
        """Return by what the learning rate is multiplied for a parameter, by name, where it is not
        1.
        """

    def maxima(self) -> Tensor | None:
        """Return what the largest of all ranks is written to before `after_step`, of any shape, or
        None.
        """

    def after_step(self) -> float:
        """Follow an optimizer step. Return the share of the quantized values that it changed, 0 to
        1; 0 where nothing is quantized.
        """

    def state(self) -> dict[str, Tensor]:
        """Return everything that is needed, beside the base model, to be where we are."""


class Method(Trainable, Protocol):
    """What a job trains with."""

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Change `model` in place to where a checkpoint was; `state` is what `state()` gave."""

    def merge(self, model: PreTrainedModel) -> None:
        """Change `model` in place to the one that is exported, whose linears hold FP8 codes.
        Nothing trains after it.
        """


METHODS: dict[MethodName, Callable[[Recipe], Method]] = {
    "falqon": Falqon,
    "lora": Lora,
    "qlora": QLora,
    "fp8_lora": Fp8Lora,
    "fp6_lora": Fp6Lora,
    "qa_lora": QaLora,
    "ir_lora": IrLora,
    "fishman": Fishman,
}


def check_packages(method: MethodName) -> None:
    """Import what a method needs beyond this software. Raises `MethodNotInstalled`."""
    for package in SPECS[method].packages:
        try:
            import_module(package)
        except ImportError as error:
            raise MethodNotInstalled(
                f"method: {method!r} needs the package {package}, which cannot be imported on this "
                f"machine ({error}); pip install {package}",
                "method",
            ) from None


def create_method(recipe: Recipe) -> Method:
    """Return the method of a resolved recipe."""
    return METHODS[recipe.method](recipe)
