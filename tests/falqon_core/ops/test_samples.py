import math

import pytest
import torch

from falqon_core.ops.samples import sqnr_db


def test_noise_is_that_of_the_worst_tensor() -> None:
    exact = torch.full((4,), 100.0)
    assert sqnr_db([exact], [exact]) is None
    assert sqnr_db([exact + 1, exact, exact + 10], [exact, exact, exact]) == pytest.approx(20.0)


def test_what_is_not_finite_is_never_taken_for_equal() -> None:
    exact = torch.full((4,), 100.0)
    broken = exact.clone()
    broken[2] = math.nan
    noise = sqnr_db([exact + 10, broken], [exact, exact])
    assert noise is not None
    assert math.isnan(noise)
