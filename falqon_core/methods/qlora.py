"""QLoRA (arXiv 2305.14314) on the kernels of bitsandbytes: LoRA beside weights in NF4, blocks of 64
whose scales are themselves quantized to 8 bits.

A weight is 0.52 bytes. What is given up: the paper's paged optimizer. bitsandbytes is imported only
when this method is asked for.
"""

from torch import Tensor

from falqon_core.methods.frozen import FrozenLinear
from falqon_core.methods.lora import Lora
from falqon_core.ops.formats.nf4 import BLOCK_SIZE, nf4_blocks


class QLora(Lora):
    """The method: LoRA whose frozen linears are bitsandbytes' NF4."""

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> FrozenLinear:
        """Return the weight [O, I] in NF4 blocks of 64."""
        return Nf4Linear(weight)

    def fingerprint(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the largest magnitude of each block, fp32 [ceil(O I / 64)], which no device
        rounds. bitsandbytes' kernels for cards round quotients further than those for CPUs, and
        take the mean of the scales in an order of their own.
        """
        return (nf4_blocks(weight).abs_().amax(1),)


class Nf4Linear(FrozenLinear):
    """A frozen linear in NF4, quantized and dequantized by bitsandbytes."""

    def __init__(self, weight: Tensor) -> None:
        from bitsandbytes.functional import quantize_4bit

        super().__init__(weight)
        # uint8 [O I / 2, 1]; the state holds scales and their own quantization.
        self._packed, self._quant_state = quantize_4bit(
            weight, blocksize=BLOCK_SIZE, quant_type="nf4", compress_statistics=True
        )

    def dequantize(self) -> Tensor:
        """Return the weight [O, I] in the dtype that it came in."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self._packed, self._quant_state)

    def codes(self) -> tuple[Tensor, ...]:
        """Return the packed codes, the 8-bit scales and the scales of those."""
        return self._packed, self._quant_state.absmax, self._quant_state.state2.absmax
