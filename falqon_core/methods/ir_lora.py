"""IR-LoRA, which is IR-QLoRA (arXiv 2402.05445): weights in the 4-bit codes of the largest entropy
(`ops.formats.icq`), NF4 or INT4, beside adapters with elastic connections (`methods.iec`).

The largest entropy is not the smallest error: on a layer of SmolLM2-135M the latter is 0.0939 of
the weights' norm, where plain NF4's is 0.0927.
"""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.errors import ConfigError
from falqon_core.contract.methods import group_size_refusal, rank_refusal
from falqon_core.data.loader import Microbatch
from falqon_core.meld.convert import target_linears
from falqon_core.methods.adapter import Adapter
from falqon_core.methods.frozen import FrozenLinear
from falqon_core.methods.iec import IecAdapter
from falqon_core.methods.lora import Lora
from falqon_core.ops.formats.icq import choose_ranges, choose_shifts, quantize_ranges, shifts_of
from falqon_core.ops.formats.int4 import dequantize_int4
from falqon_core.ops.formats.nf4 import dequantize_nf4, quantize_nf4

CHOICE_KEY = "choice"


class IrLora(Lora):
    """The method: 4-bit bases by entropy, NF4 or with `group_size` INT4, and elastic adapters."""

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> FrozenLinear:
        """Return the weight [O, I] in 4 bits; a checkpoint's choice spares the search."""
        choice = stored.get(CHOICE_KEY)
        if choice is not None:
            choice = choice.to(weight.device)
        if self.recipe.group_size is None:
            return IcqNf4Linear(weight, choice)
        return IcqInt4Linear(weight, self.recipe.group_size, choice)

    def create_adapter(self, name: str, weight: Tensor) -> Adapter:
        """Return an elastic adapter of the recipe's group size."""
        recipe = self.recipe
        return IecAdapter(
            name, weight, recipe.rank, self.scaling, recipe.seed, recipe.group_size or 1
        )

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Convert the model. Raises `ConfigError`, before any search, where the rank does not
        divide all sizes or the group size does not fit.
        """
        linears = target_linears(model, self.recipe.target_modules)
        shapes = [
            (name, (linear.out_features, linear.in_features)) for name, linear in linears.items()
        ]
        if refusal := rank_refusal(self.recipe.rank, shapes):
            raise ConfigError(f"rank: {refusal}", "rank")
        if self.recipe.group_size is not None:
            num_inputs = [(name, inputs) for name, (_, inputs) in shapes]
            if refusal := group_size_refusal(self.recipe.group_size, num_inputs):
                raise ConfigError(f"group_size: {refusal}", "group_size")
        super().prepare(model, first_microbatches)


class IcqLinear(FrozenLinear):
    """A frozen linear in 4 bits whose codes have the largest entropy."""

    _choice: Tensor

    def search_results(self) -> dict[str, Tensor]:
        """Return the chosen shift of each block, or the range of each group."""
        return {CHOICE_KEY: self._choice}


class IcqNf4Linear(IcqLinear):
    """A frozen linear in NF4 whose blocks are shifted for the largest entropy."""

    def __init__(self, weight: Tensor, choice: Tensor | None) -> None:
        """`choice` is that of a checkpoint; None searches for it."""
        super().__init__(weight)
        # uint8 [N], one number a block of 64; the search takes most of the time of a start.
        self._choice = choose_shifts(weight) if choice is None else choice
        self._weight = quantize_nf4(weight, shifts_of(weight, self._choice))
        self._shape = weight.shape

    def dequantize(self) -> Tensor:
        """Return the weight [O, I] in the working dtype."""
        return dequantize_nf4(self._weight, self._shape, self.dtype)

    def codes(self) -> tuple[Tensor, ...]:
        """Return codes, quantized scales, their mean and the shifts."""
        weight = self._weight
        return weight.codes, *weight.scales, weight.mean_scale, *weight.shifts


class IcqInt4Linear(IcqLinear):
    """A frozen linear in INT4 whose groups have the range of the largest entropy."""

    def __init__(self, weight: Tensor, group_size: int, choice: Tensor | None) -> None:
        """`choice` is that of a checkpoint; None searches for it."""
        super().__init__(weight)
        # uint8 [O, I / group_size].
        self._choice = choose_ranges(weight, group_size) if choice is None else choice
        self._weight = quantize_ranges(weight, group_size, self._choice)

    def dequantize(self) -> Tensor:
        """Return the weight [O, I] in the working dtype."""
        return dequantize_int4(self._weight, self.dtype)

    def codes(self) -> tuple[Tensor, ...]:
        """Return codes, steps and minima."""
        return tuple(self._weight)
