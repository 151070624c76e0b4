import pytest
import torch

from falqon_core.ops.delta_codes import delta_values, quantize_deltas, quantize_deltas_triton
from tests.falqon_core.ops.devices import KERNEL_DEVICE, assert_close_codes


@pytest.mark.parametrize(
    ("rank", "sizes"), [(1, (1,)), (7, (1030,)), (16, (40, 2049)), (5, (64, 3, 33)), (2, (8,) * 4)]
)
def test_the_kernel_writes_what_the_oracle_does(rank: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(rank)
    deltas = [
        torch.randn(size, rank, device=KERNEL_DEVICE) * 10**-k for k, size in enumerate(sizes)
    ]
    deltas[0][:, 0] = 0
    weight_scale = torch.randint(-14, -8, (sum(sizes),), device=KERNEL_DEVICE).float().exp2()
    scale, expected_scale = torch.ones(2, len(sizes) * rank, 1, device=KERNEL_DEVICE)

    qdata = quantize_deltas_triton(scale, weight_scale, *deltas)
    expected = quantize_deltas.oracle(expected_scale, weight_scale, *deltas)

    assert torch.equal(scale, expected_scale)
    assert_close_codes(qdata, expected)
    scales = weight_scale.split(sizes)
    values = delta_values((scale, weight_scale, *deltas), qdata)
    for value, delta, of_rows in zip(values, deltas, scales, strict=True):
        exact = (delta / of_rows[:, None]).t()
        # half of e4m3's spacing, and below its normal numbers that of the row's largest
        error = (value - exact).abs()
        assert (error <= exact.abs() / 16 + exact.abs().amax(1, keepdim=True) * 2**-18).all()
