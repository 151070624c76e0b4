import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from falqon_core.meld.rotary import rotate
from falqon_core.ops.rope_qkv import rotate_qkv_, rotate_qkv_triton


@pytest.mark.parametrize("num_tables", [1, 2])
@pytest.mark.parametrize("kernel", [rotate_qkv_.oracle, rotate_qkv_triton])
def test_rotations_and_their_gradients_are_those_of_transformers(
    num_tables: int, kernel: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, of a query whose heads lie behind each other and one whose do not."""
    monkeypatch.setitem(rotate_qkv_.kernels, "cpu", kernel)
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(num_tables, 5, 16, generator=generator).bfloat16() for _ in range(2)]
    for contiguous in (True, False):
        x = torch.randn(2, 5, 3, 16, generator=generator).bfloat16()
        x = x if contiguous else x.transpose(1, 2).contiguous().transpose(1, 2)
        results = []
        for ours in (True, False):
            query = x.clone().requires_grad_()
            if ours:
                rotated = rotate(query, *tables)
            else:
                (rotated, _) = apply_rotary_pos_emb(query, query, *tables, unsqueeze_dim=2)
            rotated.backward(torch.linspace(-3, 3, x.numel()).view_as(x).bfloat16())
            results.append((rotated, query.grad))
        for actual, expected in zip(*results, strict=True):
            assert torch.equal(actual, expected)
