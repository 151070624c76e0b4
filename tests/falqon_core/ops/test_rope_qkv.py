import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.rope_qkv import rotate_qkv_, rotate_qkv_triton
from falqon_core.ops.rope_qkv_backward import unrotate_qkv_codes, unrotate_qkv_codes_triton
from tests.falqon_core.ops.devices import (
    KERNEL_DEVICE,
    assert_close_codes,
    assert_rounds_like,
    equal_codes,
)

BATCH, TOKENS = 2, 3


def tables(num_rows: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [num_rows * TOKENS, D], of angles that do not repeat."""
    angles = torch.randn(num_rows * TOKENS, head_dim, device=KERNEL_DEVICE)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def normal(num_columns: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(BATCH * TOKENS, num_columns, device=KERNEL_DEVICE).to(dtype)


def by_transformers(qkv: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Rotate the q and k of [B * T, C] -> q, k, v [B * T, O_j]."""
    head_dim = cos.shape[1]
    query, key, value = qkv.split(sizes, 1)
    heads = (x.view(BATCH, TOKENS, -1, head_dim).transpose(1, 2) for x in (query, key))
    rotated = apply_rotary_pos_emb(
        *heads, cos.view(-1, TOKENS, head_dim), sin.view(-1, TOKENS, head_dim)
    )
    return [*(x.transpose(1, 2).reshape(BATCH * TOKENS, -1) for x in rotated), value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, BATCH])  # of positions: shared by the batch, or one each
def test_rotation_and_gradients_are_those_of_transformers_bit_for_bit(
    num_rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    sizes = (32, 16, 16)
    qkv = normal(64, dtype)
    bias = torch.randn(64, device=KERNEL_DEVICE).to(dtype)
    cos, sin = tables(num_rows, 8, dtype)
    leaf = (qkv + bias).requires_grad_()
    expected = by_transformers(leaf, cos, sin, sizes)
    grads = [torch.randn_like(x) for x in expected]
    scale = torch.randint(-8, -4, (64,), device=KERNEL_DEVICE).float().exp2()

    actual = rotate_qkv_.oracle(qkv.clone(), bias, cos, sin, sizes)
    qdata, token_scale = unrotate_qkv_codes.oracle(*grads, cos, sin, scale)

    assert torch.equal(actual, torch.cat(expected, 1))
    grad = torch.autograd.grad(expected, leaf, grads)[0]
    expected_qdata, expected_scale = quantize_codes.oracle(grad, scale)
    assert equal_codes(qdata, expected_qdata)
    assert torch.equal(token_scale, expected_scale)


# head dims of a power of two, of Phi-2, and of Gemma; groups of 1, 4 and 6 query heads
SHAPES = [(4, 4, 2), (8, 2, 64), (6, 1, 80), (1, 1, 256), (40, 2, 64)]
# every dtype with and without a bias on the smallest alone
CASES = [
    *(
        (*SHAPES[0], dtype, bias)
        for dtype in (torch.float32, torch.bfloat16)
        for bias in (False, True)
    ),
    *((*shape, torch.float32, False) for shape in SHAPES[1:]),
    *((*shape, torch.bfloat16, True) for shape in SHAPES[1:]),
]


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim", "dtype", "has_bias"), CASES)
def test_the_kernels_round_like_the_oracles(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, has_bias: bool
) -> None:
    torch.manual_seed(head_dim)
    sizes = (num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim)
    width = sum(sizes)
    cos, sin = tables(1, head_dim, dtype)
    product = normal(width + 7, dtype)
    bias = torch.randn(width, device=KERNEL_DEVICE).to(dtype) if has_bias else None
    ours = rotate_qkv_triton(product.clone(), bias, cos, sin, sizes)
    expected = rotate_qkv_.oracle(product.clone(), bias, cos, sin, sizes)
    assert_rounds_like(ours, expected)
    assert torch.equal(ours[:, width:], product[:, width:])

    grads = [normal(size, dtype) for size in sizes]
    grads[has_bias + 1][0, -1] = 90.0  # a key's or a value's is the largest of its row
    scale = torch.randint(-8, -4, (width,), device=KERNEL_DEVICE).float().exp2()
    qdata, token_scale = unrotate_qkv_codes_triton(*grads, cos, sin, scale)
    expected_qdata, expected_scale = unrotate_qkv_codes.oracle(*grads, cos, sin, scale)
    assert torch.equal(token_scale, expected_scale)
    assert_close_codes(qdata, expected_qdata)


def test_gradients_may_be_columns_of_wider_tensors() -> None:
    wide = normal(96, torch.bfloat16)
    views = wide[:, :32], wide[:, 40:56], wide[:, 72:88]
    arguments = *tables(BATCH, 16, torch.bfloat16), torch.ones(64, device=KERNEL_DEVICE)
    ours = unrotate_qkv_codes_triton(*views, *arguments)
    expected = unrotate_qkv_codes_triton(*(view.contiguous() for view in views), *arguments)
    assert all(torch.equal(x.float(), y.float()) for x, y in zip(ours, expected, strict=True))
