"""Variable-length attention on the card: packed samples never see each other."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from falqon_core.ops.attention import HAS_VARLEN, falqon_attention

DEVICE = torch.device("cuda")
BOUNDS = [0, 300, 301, 557, 1024]
CU_SEQLENS = torch.tensor(BOUNDS, dtype=torch.int32)
MAX_SEQLEN = 467


def inputs(heads: int = 8, groups: int = 2, width: int = 64) -> list[Tensor]:
    torch.manual_seed(0)
    tensors = (
        torch.randn(1, BOUNDS[-1], number, width).to(DEVICE, torch.bfloat16)
        for number in (heads, groups, groups)
    )
    return [x.transpose(1, 2).detach().requires_grad_() for x in tensors]


def packed(qkv: list[Tensor], window: int | None = None) -> Tensor:
    """[1, T, H, D]"""
    cu_seqlens = CU_SEQLENS.to(DEVICE)
    return falqon_attention(
        nn.Identity(),
        *qkv,
        None,
        0.125,
        sliding_window=window,
        cu_seqlens=cu_seqlens,
        max_seqlen=MAX_SEQLEN,
    )[0]


def singly(qkv: list[Tensor], window: int | None = None) -> Tensor:
    """Each segment by itself in fp32, masked."""
    outputs = []
    for start, end in pairwise(BOUNDS):
        distance = torch.arange(end - start, device=DEVICE)[:, None] - torch.arange(
            end - start, device=DEVICE
        )
        mask = (distance >= 0) & (distance < (window or BOUNDS[-1]))
        q, k, v = (x[:, :, start:end].float() for x in qkv)
        outputs.append(
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.125, enable_gqa=True)
        )
    return torch.cat(outputs, 2).transpose(1, 2)


def test_this_torch_has_variable_length_attention() -> None:
    assert HAS_VARLEN, "segments go one by one instead: right, but slow; a newer torch has it"


@pytest.mark.parametrize("window", [None, 64])
def test_packed_samples_have_the_outputs_and_gradients_that_they_have_alone(
    window: int | None,
) -> None:
    together = inputs()
    alone = inputs()
    output = packed(together, window)
    expected = singly(alone, window)
    torch.testing.assert_close(output.float(), expected, rtol=2**-6, atol=2**-6)
    grad = torch.randn_like(expected)
    output.backward(grad.to(output.dtype))
    expected.backward(grad)
    for member, other in zip(together, alone, strict=True):
        assert (member.grad.float() - other.grad.float()).norm() < 0.02 * other.grad.float().norm()


def test_the_content_of_one_sample_changes_no_bit_of_other_samples() -> None:
    qkv = inputs()
    changed = inputs()
    with torch.no_grad():
        for x in changed:
            x[:, :, BOUNDS[0] : BOUNDS[1]] += 1.0
        before = packed(qkv)
        after = packed(changed)
    assert torch.equal(before[:, BOUNDS[1] :], after[:, BOUNDS[1] :])
    assert not torch.equal(before[:, : BOUNDS[1]], after[:, : BOUNDS[1]])


@pytest.mark.parametrize("is_packed", [True, False])
def test_backward_gives_the_same_bits_every_time(is_packed: bool) -> None:
    """4,096 tokens are 32 blocks of keys, which add to the gradient of the queries."""
    torch.manual_seed(0)
    shape = (1, 4096, 8, 64) if is_packed else (4, 4096, 8, 64)
    segments = {}
    if is_packed:
        cu_seqlens = torch.tensor([0, 1000, 4096], dtype=torch.int32, device=DEVICE)
        segments = {"cu_seqlens": cu_seqlens, "max_seqlen": 3096}
    qkv = [
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]
    output = falqon_attention(nn.Identity(), *qkv, None, 0.125, **segments)[0]
    grad = torch.randn_like(output)
    first, *others = (torch.autograd.grad(output, qkv, grad, retain_graph=True) for _ in range(8))
    for other in others:
        for ours, expected in zip(other, first, strict=True):
            assert torch.equal(ours, expected)
    assert not torch.are_deterministic_algorithms_enabled()
