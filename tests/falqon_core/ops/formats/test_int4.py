import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from falqon_core.ops.formats.int4 import Int4, dequantize_int4, q4_1_blocks, quantize_int4


def weight_of(num_rows: int = 6, num_inputs: int = 192) -> Tensor:
    return torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.mark.parametrize("group_size", [8, 24, 32, 64])
def test_every_weight_is_rounded_to_the_nearest_of_sixteen(group_size: int) -> None:
    weight = weight_of()
    quantized = quantize_int4(weight, group_size)
    num_groups = 192 // group_size
    assert quantized.codes.shape == (6, num_groups, group_size // 2)
    assert quantized.steps.shape == quantized.minima.shape == (6, num_groups)
    grid = quantized.minima[..., None].float() + quantized.steps[..., None].float() * torch.arange(
        16
    )
    groups = weight.unflatten(1, (num_groups, group_size))
    nearest = (groups[..., None] - grid[:, :, None]).abs().amin(-1)
    error = (dequantize_int4(quantized, torch.float32).view_as(groups) - groups).abs()
    torch.testing.assert_close(error, nearest, rtol=0, atol=1e-7)


def test_a_weight_of_many_row_blocks_is_quantized_as_its_rows_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = weight_of()
    whole = quantize_int4(weight, 32)
    monkeypatch.setattr(
        "falqon_core.ops.quantize.row_blocks.__defaults__", (192 * 4,), raising=True
    )
    parts = quantize_int4(weight, 32)
    assert all(torch.equal(*pair) for pair in zip(whole, parts, strict=True))
    assert torch.equal(dequantize_int4(whole, torch.float32), dequantize_int4(parts, torch.float32))


def test_a_group_of_equal_weights_is_exact() -> None:
    weight = torch.full((1, 32), 0.25)
    assert torch.equal(dequantize_int4(quantize_int4(weight, 32), torch.float32), weight)


def test_what_is_on_the_grid_stays() -> None:
    codes = torch.arange(32).remainder(16).float()
    weight = (codes * 0.125 - 0.75)[None]
    assert torch.equal(dequantize_int4(quantize_int4(weight, 32), torch.bfloat16).float(), weight)


def test_gguf_reads_the_blocks_as_the_same_weights_bit_for_bit() -> None:
    quantized = quantize_int4(weight_of().bfloat16(), 32)
    moved = Int4(quantized.codes, quantized.steps, (quantized.minima * 1.37).half())
    blocks = q4_1_blocks(moved)
    assert blocks.shape == (6, 20 * 192 // 32)
    values = dequantize(blocks.numpy(), GGMLQuantizationType.Q4_1)
    assert torch.equal(torch.from_numpy(values), dequantize_int4(moved, torch.float32))
