"""LoRA over FP6 weights, as FP6-LLM (arXiv 2401.14112) stores them.

Every linear is quantized, where FP6-LLM's kernel leaves those in 16 bits whose sizes do not suit
it. What is given up: its speed; there is no kernel with a backward pass, so weights are dequantized
for products in the working dtype, and memory is what 6 bits save.
"""

from torch import Tensor

from falqon_core.methods.frozen import FrozenLinear
from falqon_core.methods.lora import Lora
from falqon_core.ops.formats.fp6 import FORMATS, Fp6Format, dequantize_fp6, quantize_fp6


class Fp6Lora(Lora):
    """LoRA whose frozen linears are stored in 6 bits a weight."""

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> FrozenLinear:
        """Return the weight [O, I] in the recipe's FP6 format."""
        assert self.recipe.weight_format is not None, "resolve the recipe first"
        return Fp6Linear(weight, FORMATS[self.recipe.weight_format])


class Fp6Linear(FrozenLinear):
    """A frozen linear of packed 6-bit codes, with one scale a row."""

    def __init__(self, weight: Tensor, format: Fp6Format) -> None:
        super().__init__(weight)
        self._dtype = weight.dtype
        self._packed, self._scale = quantize_fp6(weight, format)
        # fp32 [64], on the device of the codes so that unpacking is one gather.
        self._table = format.values.to(weight.device)

    def dequantize(self) -> Tensor:
        """Return the weight [O, I] in the working dtype, unpacked through a table of 64 values."""
        return dequantize_fp6(self._packed, self._scale, self._table, self.in_features, self._dtype)

    def codes(self) -> tuple[Tensor, ...]:
        """Return the packed bytes and the scales."""
        return self._packed, self._scale
