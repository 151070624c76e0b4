import pytest
import torch

from falqon_core.ops.transpose import transpose_codes, transpose_codes_triton
from tests.falqon_core.ops.devices import KERNEL_DEVICE


@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 1), (130, 257), (256, 128)])
def test_the_kernel_and_the_oracle_transpose_every_bit(num_rows: int, num_columns: int) -> None:
    bits = torch.randint(0, 256, (num_rows, num_columns), dtype=torch.uint8, device=KERNEL_DEVICE)

    for transpose in (transpose_codes.oracle, transpose_codes_triton):
        transposed = transpose(bits.view(torch.float8_e4m3fn))
        assert transposed.is_contiguous()
        assert torch.equal(transposed.view(torch.uint8), bits.t())
