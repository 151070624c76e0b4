"""Methods of training: FALQON, and the systems that it is measured against.

A method is the part of an algorithm that the trainer needs to know, and nothing more;
`contract.methods` has the part for users.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import MethodNotInstalled
from falqon_core.contract.methods import METHOD_SPECS, MethodName
from falqon_core.data.loader import Microbatch
from falqon_core.meld.sharded_layers import Ranks
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.fishman import Fishman
from falqon_core.methods.fp6_lora import Fp6Lora
from falqon_core.methods.fp8_lora import Fp8Lora
from falqon_core.methods.ir_lora import IrLora
from falqon_core.methods.lora import Lora
from falqon_core.methods.qa_lora import QaLora
from falqon_core.methods.qlora import QLora
from falqon_core.methods.relative_rate import RelativeRate


class Trainable(Protocol):
    """The part of a method that makes a model train; the trainer owns data, optimizer and time."""

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Change `model` in place for a fresh start. The microbatches are those of the first steps,
        for methods that choose by data. Raises `ConfigError` where the recipe does not fit the
        model.
        """

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimizer updates, fp32, by name."""

    def relative_rates(self) -> dict[str, RelativeRate]:
        """Return factors of the learning rate, as functions of the step, by the parameter's name;
        of a parameter without one it is 1.
        """

    def maxima(self) -> Tensor | None:
        """Return the tensor, of any shape, that takes the maximum over all ranks before
        `after_step`; None where there is none.
        """

    def after_step(self) -> float:
        """Follow an optimizer step. Return the share of the quantized values that it changed, 0 to
        1; 0 where nothing is quantized.
        """

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that restore this point of the training from the base model."""


class TrainingMethod(Trainable, Protocol):
    """A method as a job names it."""

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Change `model` in place to the point of a checkpoint; `state` is the result of `state()`.
        `model` is the base of that training, which train/base_identity.py checks. Raises
        `CheckpointCorrupt` where a method quantizes it to other values than then.
        """

    def merge(self, model: PreTrainedModel) -> None:
        """Change `model` in place to the exported one, of FP8 codes. Nothing trains after it."""


METHOD_CLASSES: dict[MethodName, Callable[[Recipe], TrainingMethod]] = {
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
    """Import the packages that a method needs beyond this software. Raises `MethodNotInstalled`
    where one cannot be imported.
    """
    for package in METHOD_SPECS[method].packages:
        try:
            import_module(package)
        except ImportError as error:
            raise MethodNotInstalled(
                f"method: {method!r} needs the package {package}, which cannot be imported on this "
                f"machine ({error}); pip install {package}",
                "method",
            ) from None


def create_method(recipe: Recipe, ranks: Ranks | None = None) -> TrainingMethod:
    """Return the method of a resolved recipe, which has changed no model yet. With `ranks` each of
    them stores a part of the model, which "falqon" alone can.
    """
    if ranks is not None:
        assert recipe.method == "falqon", "no other method is sharded"
        return Falqon(recipe, ranks)
    return METHOD_CLASSES[recipe.method](recipe)
