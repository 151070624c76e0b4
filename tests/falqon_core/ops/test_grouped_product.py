"""torch's grouped product, which a GPU takes, computes what experts one by one do; torch has it on
a CPU as well.
"""

import pytest
import torch
from torch import Tensor

from falqon_core.importers import mxfp4
from falqon_core.ops import grouped_product as module
from falqon_core.ops.grouped_product import expert_values, grouped_mm, grouped_product
from falqon_core.ops.samples import Draw, sqnr_db
from falqon_core.ops.self_check import try_kernel

CPU = torch.device("cpu")


def test_the_kernel_agrees_with_the_oracle_on_its_samples() -> None:
    assert try_kernel(grouped_product, grouped_mm, CPU) is None


@pytest.mark.parametrize("ends", [[0, 0, 9], [9, 9, 9], [2, 5, 9]])
@pytest.mark.parametrize("backward", [False, True])
def test_experts_without_rows_take_none(ends: list[int], backward: bool) -> None:
    draw = Draw(CPU)
    x = draw.normal(9, 24 if backward else 40)
    weights = draw.codes(3, 24, 40), draw.scales(3, 24, 1)
    arguments = (x, *weights, torch.tensor(ends, dtype=torch.int32), backward)

    noise = sqnr_db([grouped_mm(*arguments)], [grouped_product.oracle(*arguments)])

    assert noise is None or noise > 50


def test_a_wrong_expert_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(x: Tensor, codes: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        return grouped_mm(x, codes.roll(1, 0), scale.roll(1, 0), *rest)

    fault = try_kernel(grouped_product, shifted, CPU)
    assert fault is not None
    assert "its result is wrong" in fault


def test_shapes_that_torch_does_not_take_are_left_to_the_oracle() -> None:
    draw = Draw(CPU)
    ends = torch.tensor([4, 9], dtype=torch.int32)
    arguments = draw.normal(9, 36), draw.codes(2, 20, 36), draw.scales(2, 20, 1), ends
    assert torch.equal(grouped_mm(*arguments), grouped_product.oracle(*arguments))


def test_mxfp4_is_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Draw(CPU)
    codes = draw.codes(3, 10, 32).view(torch.uint8)
    exponents = torch.full((3, 10, 2), mxfp4.BIAS, dtype=torch.uint8)
    whole = expert_values(codes, exponents, torch.bfloat16)
    monkeypatch.setattr(module, "MXFP4_WEIGHTS", 7 * 64)
    assert torch.equal(expert_values(codes, exponents, torch.bfloat16), whole)
