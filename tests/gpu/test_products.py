"""Products of torch's own that trainings on a card use and those on a CPU do not."""

import torch

from falqon_core.ops.matmul import matmul_fp32, multiply_into

DEVICE = torch.device("cuda")


def operands(num_rows: int, num_columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(num_rows)
    a = torch.randn(8448, num_rows, device=DEVICE).bfloat16().t()
    return a, torch.randn(8448, num_columns, device=DEVICE).bfloat16()


def test_the_gradient_of_a_delta_leaves_its_product_in_fp32() -> None:
    """Rounded to bf16 it would be 2^-9 from the exact one."""
    a, b = operands(4096, 3 * 64)
    for columns in b.chunk(3, 1):
        exact = a.double() @ columns.double()
        product = matmul_fp32(a, columns)
        assert product.dtype == torch.float32
        assert (product - exact).norm() < 2**-14 * exact.norm()


def test_products_stand_side_by_side() -> None:
    a, b = operands(528, 7)
    wide = torch.zeros(528, 21, dtype=torch.bfloat16, device=DEVICE)
    multiply_into(wide[:, 7:14], a, b)
    torch.testing.assert_close(wide[:, 7:14], a @ b, rtol=2**-7, atol=1e-2)
    assert not wide[:, :7].any()
    assert not wide[:, 14:].any()
