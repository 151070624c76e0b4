import pytest
import torch

from falqon_core.ops import refresh
from falqon_core.ops.quantize import quantize_rows


@pytest.mark.parametrize(("num_outputs", "num_inputs", "rank"), [(5, 7, 2), (192, 576, 64), (33, 40, 40)])
def test_rows_are_the_quantized_sum(num_outputs: int, num_inputs: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "BLOCK_ELEMENTS", 4 * num_inputs + 3)  # several blocks, the last one short
    base, a, delta = torch.randn(num_outputs, num_inputs), torch.randn(rank, num_inputs), torch.randn(num_outputs, rank) * 0.1
    rows, scale = torch.empty_like(base), torch.empty(num_outputs, 1)
    kept = base.clone()

    refresh.refresh_rows(rows, scale, base, delta, a, 0.5)

    assert torch.equal(base, kept)
    expected, expected_scale = quantize_rows(base + 0.5 * delta @ a)
    assert torch.equal(scale, expected_scale)
    assert (rows == expected).float().mean() > 0.999  # another order of additions may move a value over a tie


def test_without_a_delta_the_rows_are_the_quantized_base() -> None:
    base = torch.randn(100, 64).bfloat16()
    rows, scale = torch.empty_like(base), torch.empty(100, 1)
    refresh.refresh_rows(rows, scale, base, torch.zeros(100, 4), torch.randn(4, 64).bfloat16(), 1.0)
    assert torch.equal(rows, quantize_rows(base)[0])
