"""Which GEMM is taken, with GEMMs that fail, that lie and that are slow."""

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from falqon_core.ops.gemm_choice import (
    Gemm,
    GemmShape,
    exact_gemms,
    fastest_gemm,
    known_product,
)
from falqon_core.ops.scaled_mm import (
    GEMMS,
    choose_gemms,
    own,
    rowwise,
    scaled_mm,
    unit_scale,
)
from falqon_core.ops.self_check import verdicts_path
from tests.falqon_core.ops.devices import KERNEL_DEVICE, needs_rowwise

DEVICE = torch.device(KERNEL_DEVICE)
SHAPE = GemmShape(4, 48, 512, False)


@pytest.fixture(autouse=True)
def _forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def refusing(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
    raise RuntimeError("no kernel image is available\nand a long explanation")


def forgetful(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
    return rowwise(a, a_scale, b, torch.ones_like(b_scale), fast)


def sharing(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
    return rowwise(a, a_scale[:1].expand_as(a_scale).contiguous(), b, b_scale, fast)


def careless(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
    """Wrong in one product of many."""
    a = a.clone()
    a[-1, -1] = a[-1, -1].float().add(1).to(a.dtype)
    return rowwise(a, a_scale, b, b_scale, fast)


def short_sighted(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
    """Wrong beyond the K of the small product."""
    return rowwise(a[:, :256].contiguous(), a_scale, b[:, :256].contiguous(), b_scale, fast)


def slow(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
    time.sleep(0.02)
    return rowwise(a, a_scale, b, b_scale, fast)


@needs_rowwise
@pytest.mark.parametrize("num_rows", [1, 16, 272])
def test_right_gemms_are_taken_in_their_order(num_rows: int) -> None:
    assert exact_gemms(GEMMS, num_rows, DEVICE, False) == [rowwise, unit_scale, own]
    assert exact_gemms((unit_scale, rowwise), num_rows, DEVICE, True) == [unit_scale, rowwise]


@pytest.mark.parametrize("bad", [refusing, forgetful, sharing, careless])
def test_one_that_fails_or_lies_is_passed_over_and_named(
    bad: Gemm, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert exact_gemms((bad, unit_scale), 32, DEVICE, False) == [unit_scale]
        assert fastest_gemm((bad,), SHAPE, DEVICE) is None
    assert bad.__name__ in caplog.text
    assert "a long explanation" not in caplog.text


@needs_rowwise
def test_one_that_is_right_on_a_small_product_alone_is_passed_over() -> None:
    assert exact_gemms((short_sighted, slow), 4, DEVICE, False) == [short_sighted, slow]
    assert fastest_gemm((short_sighted, slow), SHAPE, DEVICE) is slow


@needs_rowwise
def test_the_fastest_is_taken_and_remembered_for_its_shape_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert fastest_gemm((slow, rowwise), SHAPE, DEVICE) is rowwise
    # what was remembered is neither tried nor timed again
    with caplog.at_level(logging.WARNING):
        assert fastest_gemm((refusing, rowwise), SHAPE, DEVICE) is rowwise
        assert caplog.text == ""
        assert fastest_gemm((refusing, slow), SHAPE._replace(num_outputs=64), DEVICE) is slow
        assert "refusing" in caplog.text
    # nor is a name that nobody bears any more
    assert fastest_gemm((slow,), SHAPE, DEVICE) is slow


def test_they_are_chosen_for_every_number_of_rows_before_the_first_step() -> None:
    choose_gemms(DEVICE, 32, 112, False, most_rows=40)
    stored = json.loads(verdicts_path(DEVICE).with_suffix(".gemms.json").read_text())
    assert [*stored["names"]] == [f"{rows} x 32 x 112" for rows in (16, 32, 64)]


def test_memory_that_runs_out_says_nothing_about_a_gemm() -> None:
    def greedy(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fastest_gemm((greedy, rowwise), SHAPE, DEVICE)


@pytest.mark.parametrize("num_inputs", [256, 4096])
def test_the_known_product_is_exact_in_the_oracle_too(num_inputs: int) -> None:
    *operands, product = known_product(64, 32, num_inputs, DEVICE)
    a, a_scale, b, b_scale = (x.double() for x in operands)
    assert torch.equal(product.double(), (a @ b.t()) * a_scale * b_scale.t())
    assert torch.equal(scaled_mm.oracle(*operands), product)
    assert (a != 0).sum(1).max() < 256
