"""Assertions of `tests/gpu` about kernels, in Triton's interpreter at small shapes: a test that no
card can pass is seen where there is no card.
"""

import pytest
import torch

from falqon_core.bench.kernels import LINES, KernelDraw, Shapes
from tests.gpu import test_kernels

SMALL = Shapes(tokens=48, hidden=64, intermediate=96, rank=16, update_rows=4)
CASTS = [name for name in dir(test_kernels.TestCasts) if name.startswith("test_")]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("tests/gpu itself runs here")
    monkeypatch.setattr(test_kernels, "DEVICE", CPU)
    monkeypatch.setattr(test_kernels, "SHAPES", SMALL)
    for operator in {line.operator for line in LINES}:
        if "cuda" in operator.kernels:
            monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["cuda"])


def test_refreshed_codes() -> None:
    test_kernels.test_refreshed_codes_are_the_oracles_but_for_a_step_in_a_tiny_share()


@pytest.mark.parametrize("name", CASTS)
def test_casts(name: str) -> None:
    getattr(test_kernels.TestCasts(), name)(KernelDraw(CPU))
