from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from falqon_core.ops.rotary import rotate_pair


def test_outputs_and_gradients_are_those_of_transformers_bit_for_bit() -> None:
    torch.manual_seed(0)
    # [B, T, heads, D] as projections leave them, turned to [B, heads, T, D].
    query, key = (torch.randn(2, 7, heads, 16).bfloat16().transpose(1, 2) for heads in (6, 2))
    angles = torch.randn(1, 7, 8).repeat(1, 1, 2)
    tables = angles.cos().bfloat16(), angles.sin().bfloat16()
    grads = torch.randn(2, 6, 7, 16).bfloat16(), torch.randn(2, 2, 7, 16).bfloat16()

    def outputs_and_grads(function: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in (query, key)]
        outputs = function(*inputs, *tables)
        return [*outputs, *torch.autograd.grad(outputs, inputs, grads)]

    ours, transformers = outputs_and_grads(rotate_pair), outputs_and_grads(apply_rotary_pos_emb)
    assert all(torch.equal(x, y) for x, y in zip(ours, transformers, strict=True))
