"""Codes and scales have the same bits on every device: a checkpoint keeps a hash of them, a card
trains it, and a CPU exports it.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from falqon_core.ops.formats.fp6 import FORMATS, quantize_fp6
from falqon_core.ops.formats.icq import choose_ranges, choose_shifts, quantize_ranges, shifts_of
from falqon_core.ops.formats.int4 import quantize_int4
from falqon_core.ops.formats.nf4 import quantize_nf4
from falqon_core.ops.quantize import divide, quantize_int8
from tests.support.card_division import CardDivision

GROUP = 32


def quantize_by_shifts(weight: Tensor) -> list[Tensor]:
    choice = choose_shifts(weight)
    quantized = quantize_nf4(weight, shifts_of(weight, choice))
    return [
        choice,
        quantized.codes,
        *quantized.scales,
        quantized.mean_scale,
        *quantized.shifts,
    ]


def quantize_by_ranges(weight: Tensor) -> list[Tensor]:
    choice = choose_ranges(weight, GROUP)
    return [choice, *quantize_ranges(weight, GROUP, choice)]


QUANTIZE: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "fp6-e3m2": lambda weight: list(quantize_fp6(weight, FORMATS["e3m2"])),
    "fp6-e2m3": lambda weight: list(quantize_fp6(weight, FORMATS["e2m3"])),
    "int4": lambda weight: list(quantize_int4(weight, GROUP)),
    "icq-int4": quantize_by_ranges,
    "icq-nf4": quantize_by_shifts,
    "int8": lambda weight: list(quantize_int8(weight)),
}


def weight_of(dtype: torch.dtype) -> Tensor:
    """Return enough weights for some steps of INT4 that lie beside a tie of fp16."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4096, 192, generator=generator) * 0.05).to(dtype)


@pytest.mark.parametrize("name", [name for name in QUANTIZE if name != "icq-nf4"])
def test_codes_and_scales_are_those_of_a_card_that_multiplies_by_inverses(name: str) -> None:
    weight = weight_of(torch.float32)
    expected = QUANTIZE[name](weight)
    with CardDivision():
        on_card = QUANTIZE[name](weight)
    assert all(torch.equal(a, b) for a, b in zip(expected, on_card, strict=True))


@pytest.mark.parametrize("divisor", [127, 28.0, 7.5, 15, -9])
def test_a_division_is_the_one_that_a_cpu_computes(divisor: float) -> None:
    values = torch.randn(100_003, generator=torch.Generator().manual_seed(0))
    expected = values / divisor
    with CardDivision():
        assert not torch.equal(values / divisor, expected), "the next line tests something"
        assert torch.equal(divide(values, divisor), expected)
