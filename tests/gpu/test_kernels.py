"""Kernels at the shapes of a 7B model, compiled for this card."""

import pytest
import torch
from torch.nn import functional as F

from falqon_core.bench.kernels import LINES, KernelDraw, KernelLine, Shapes, measure_kernel
from falqon_core.ops.gemm_choice import GemmShape, exact_gemms
from falqon_core.ops.half_gemm import lower
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.refresh import refresh_codes
from falqon_core.ops.rms_norm import rms_norm_codes
from falqon_core.ops.scaled_mm import MAX_PROBED_ROWS, gemm_for, has_fp8_gemm, rowwise, scaled_mm
from falqon_core.ops.swiglu_codes import (
    dequantize_halves,
    swiglu_codes_backward,
    swiglu_codes_forward,
)
from tests.falqon_core.ops.devices import codes_apart, signal_to_noise

DEVICE = torch.device("cuda")
SHAPES = Shapes()


@pytest.fixture
def draw() -> KernelDraw:
    return KernelDraw(DEVICE)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_the_kernel_computes_what_its_oracle_does(line: KernelLine) -> None:
    """40 dB: one code in a thousand a step apart is 53 dB, bf16 rounded twice 50, FP16 partial sums
    60.
    """
    result = measure_kernel(line, SHAPES, DEVICE, budget_seconds=0.01)
    assert result.sqnr_db is None or result.sqnr_db > 40


class TestCasts:
    """Codes times scale against the same in fp32 without rounding: 25 dB at least, 31 are usual for
    normal numbers.
    """

    def test_of_activations(self, draw: KernelDraw) -> None:
        x = draw.normal(SHAPES.tokens, SHAPES.hidden)
        assert signal_to_noise(*quantize_codes(x), x.float()) >= 25

    def test_of_gradients_times_the_weights_scales(self, draw: KernelDraw) -> None:
        x = draw.normal(SHAPES.tokens, SHAPES.hidden)
        scale = torch.logspace(-2, 2, SHAPES.hidden, base=2, device=DEVICE)
        assert signal_to_noise(*quantize_codes(x, scale), x.float() * scale) >= 25

    def test_of_the_norm(self, draw: KernelDraw) -> None:
        x = draw.normal(SHAPES.tokens, SHAPES.hidden)
        residual = draw.normal(SHAPES.tokens, SHAPES.hidden)
        weight = draw.normal(SHAPES.hidden)
        qdata, scale, *_ = rms_norm_codes(x, residual, weight, 1e-5)
        exact = F.rms_norm(x.float() + residual.float(), (SHAPES.hidden,), weight.float(), 1e-5)
        assert signal_to_noise(qdata, scale, exact) >= 25

    def test_of_swiglu(self, draw: KernelDraw) -> None:
        gate, up = draw.normal(SHAPES.tokens, 2 * SHAPES.intermediate).chunk(2, -1)
        *product, halves, scales = swiglu_codes_forward(gate, up)
        assert signal_to_noise(*product, F.silu(gate.float()) * up.float()) >= 25
        kept = zip(halves.chunk(2, 1), scales.split(1, 1), (gate, up), strict=True)
        assert all(signal_to_noise(codes, scale, half.float()) >= 25 for codes, scale, half in kept)

    def test_of_swiglus_gradients(self, draw: KernelDraw) -> None:
        gate, up = draw.normal(SHAPES.tokens, 2 * SHAPES.intermediate).chunk(2, -1)
        grad = draw.normal(SHAPES.tokens, SHAPES.intermediate)
        ones = torch.ones(2 * SHAPES.intermediate, device=DEVICE)
        *_, halves, scales = swiglu_codes_forward(gate, up)
        qdata, scale = swiglu_codes_backward(grad, halves, scales, ones)
        gate32, up32 = (
            half.requires_grad_() for half in dequantize_halves(halves, scales, torch.float32)
        )
        (F.silu(gate32) * up32).backward(grad.float())
        assert signal_to_noise(qdata, scale, torch.cat([gate32.grad, up32.grad], 1)) >= 25


def test_refreshed_codes_are_the_oracles_but_for_a_step_in_a_tiny_share() -> None:
    (line,) = [line for line in LINES if line.operator is refresh_codes]
    ours, oracle = (line.call(SHAPES, KernelDraw(DEVICE)).arguments for _ in range(2))
    changed = refresh_codes(*ours)
    expected = refresh_codes.oracle(*oracle)
    apart = codes_apart(ours[0], oracle[0])
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-3
    torch.testing.assert_close(ours[1], oracle[1], rtol=1e-4, atol=0)
    assert torch.equal(ours[2], oracle[2])
    assert abs(changed - expected) <= (apart > 0).sum()


@pytest.mark.parametrize("fast_accumulation", [True, False])
@pytest.mark.parametrize("num_rows", [1, 16, 528, MAX_PROBED_ROWS, 8448])
def test_the_probe_takes_an_fp8_gemm(num_rows: int, fast_accumulation: bool) -> None:
    assert has_fp8_gemm(DEVICE)
    shape = GemmShape(num_rows, 4096, 11008, fast_accumulation)
    assert gemm_for(DEVICE, shape) is not scaled_mm.oracle


def test_hopper_can_multiply_with_scales_by_row() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("rowwise scales have failed on other architectures")
    assert exact_gemms((rowwise,), 8448, DEVICE, True) == [rowwise]


def test_a_row_that_is_not_a_number_stays_so_in_its_product_alone(draw: KernelDraw) -> None:
    x = draw.normal(SHAPES.tokens, SHAPES.hidden)
    x[1, 3] = float("nan")
    product = scaled_mm(*quantize_codes(x), *draw.qdata(SHAPES.intermediate, SHAPES.hidden))
    assert product[1].isnan().all()
    assert product[[0, 2]].isfinite().all()


def test_lowered_rows_never_overflow_half_sums(draw: KernelDraw) -> None:
    (line,) = [line for line in LINES if line.name == "own GEMM, FP16 sums"]
    largest = torch.full((256, 4096), 448.0, device=DEVICE).to(torch.float8_e4m3fn)
    x, x_scale = lower(largest, torch.ones(256, 1, device=DEVICE))
    product = line.operator(x, largest, x_scale, torch.ones(1, 256, device=DEVICE), True)
    torch.testing.assert_close(
        product, torch.full_like(product, 4096 * 448.0**2), rtol=2**-7, atol=0
    )
