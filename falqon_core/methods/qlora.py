"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314) as bitsandbytes computes it: LoRA over a base in 4
bits, NF4 with nested scales.

A weight is 0.52 bytes and is dequantized to bf16 for every product, forward and backward. Adapters,
attention, norms and loss are those of lora.py. What is given up: the paper's paged optimizer;
bitsandbytes is imported only when this method is asked for.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from falqon_core.methods.lora import Lora


class QLora(Lora):
    def change_base(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        """Change one linear at a time, so that each bf16 weight is freed before the next is
        quantized.
        """
        from bitsandbytes.nn import Linear4bit, Params4bit

        for name in names:
            linear = model.get_submodule(name)
            weight = linear.weight.detach()
            quantized = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            quantized.weight = Params4bit(
                weight, requires_grad=False, quant_type="nf4", module=quantized
            ).to(weight.device)
            quantized.bias = linear.bias
            model.set_submodule(name, quantized)
        model.is_loaded_in_4bit = True  # PEFT chooses its 4-bit branch by it
