import pytest
import torch
from torch import Tensor

from falqon_core.ops.transpose import transpose_codes, transpose_codes_triton
from tests.falqon_core.ops.devices import KERNEL_DEVICE


def bits(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=KERNEL_DEVICE)


@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 1), (130, 257), (256, 128)])
def test_the_kernel_and_the_oracle_transpose_every_bit(num_rows: int, num_columns: int) -> None:
    codes = bits(num_rows, num_columns)

    for transpose in (transpose_codes.oracle, transpose_codes_triton):
        transposed = transpose(codes.view(torch.float8_e4m3fn))
        assert transposed.is_contiguous()
        assert torch.equal(transposed.view(torch.uint8), codes.t())


@pytest.mark.parametrize(
    ("num_columns", "rank", "sizes"),
    [
        (130, 7, (40,)),
        (128, 16, (64, 96)),
        (16, 70, (33, 128, 5)),
        (0, 3, (20, 7)),
        (8, 2, (5,) * 4),
    ],
)
def test_codes_of_the_deltas_follow_each_in_its_own_columns(
    num_columns: int, rank: int, sizes: tuple[int, ...]
) -> None:
    """Zeros fill up the rest; no column of the weight is there where only the deltas are wanted."""
    wide = bits(sum(sizes), num_columns + 3)
    codes = wide[:, :num_columns] if num_columns == 0 else wide[:, :num_columns].contiguous()
    deltas = bits(rank, sum(sizes))
    num_appended = len(sizes) * rank + 9

    for transpose in (transpose_codes.oracle, transpose_codes_triton):
        transposed = transpose(
            codes.view(torch.float8_e4m3fn), deltas.view(torch.float8_e4m3fn), sizes, num_appended
        )
        assert transposed.shape == (num_columns + num_appended, sum(sizes))
        weight, appended = transposed.view(torch.uint8).split((num_columns, num_appended))
        assert torch.equal(weight, codes.t())
        expected = torch.block_diag(*deltas.split(sizes, 1))
        assert torch.equal(appended[: len(expected)], expected)
        assert not appended[len(expected) :].any()
