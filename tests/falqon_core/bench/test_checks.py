import json
from pathlib import Path
from typing import Any

import pytest
import torch

from falqon_core.bench import checks
from falqon_core.bench.checks import (
    check_attention,
    check_kernel,
    check_memory,
    check_products,
    choose_dimensions,
    distinct_shapes,
)
from falqon_core.bench.kernels import LINES, KernelCall, KernelDraw, KernelLine, Shapes
from falqon_core.bench.model import dimensions_of, llama_7b
from falqon_core.ops.dispatch import operator
from falqon_core.ops.scaled_mm import unit_scale
from tests.falqon_core.ops.devices import KERNEL_DEVICE

DEVICE = torch.device(KERNEL_DEVICE)
TINY = Shapes(tokens=4, hidden=32, intermediate=32, rank=16, update_rows=2, head_dim=16)


@operator
def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def draw_ones(shapes: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall((torch.ones(shapes.tokens, shapes.hidden),))


def test_a_kernel_is_compared_and_timed() -> None:
    (line,) = [line for line in LINES if line.name == "rms_norm forward"]
    assert "of its oracle" in check_kernel(line, TINY, DEVICE)
    assert "GB/s" in check_kernel(line, TINY, DEVICE)


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [(lambda x: 2.1 * x, "its result is wrong: 26 dB"), (lambda x: x.missing, "AttributeError")],
)
def test_a_kernel_that_is_wrong_or_fails_is_told(kernel: Any, fault: str) -> None:
    line = KernelLine("double", "", double, draw_ones, lambda _, result: [result])
    double.kernels["cuda"] = kernel
    with pytest.raises((ArithmeticError, RuntimeError), match=fault):
        check_kernel(line, TINY, torch.device("cpu"))


def test_products_are_compared_at_the_models_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no such product")

    monkeypatch.setattr(checks, "GEMMS", (unit_scale, broken))
    monkeypatch.setattr(checks, "SHAPES_7B", TINY)
    answer, tflops = check_products(48, 32, DEVICE)
    assert 0 < tflops < 1
    assert answer.startswith("unit_scale 0 TFLOP/s")
    assert "broken failed: RuntimeError: no such product" in answer
    assert "trainings take " in answer
    monkeypatch.setattr(checks, "GEMMS", (broken,))
    with pytest.raises(RuntimeError, match="no such product"):
        check_products(48, 32, torch.device("cpu"))


def test_check_sizes_are_those_of_the_model(tmp_path: Path) -> None:
    assert distinct_shapes(dimensions_of(llama_7b())) == {
        (4096, 4096): "q, k, v, o",
        (11008, 4096): "gate, up",
        (4096, 11008): "down",
    }
    config = llama_7b().to_dict() | {"hidden_size": 100, "head_dim": 10, "num_attention_heads": 10}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 10}))
    name, dimensions = choose_dimensions(tmp_path)
    assert name == tmp_path.name
    assert (112, 112) in distinct_shapes(dimensions), "rounded up to multiples of 16"


def test_memory_that_is_too_small_fails_for_a_named_model(monkeypatch: pytest.MonkeyPatch) -> None:
    dimensions = dimensions_of(llama_7b())
    monkeypatch.setattr(checks, "available_bytes", lambda _: 2**40)
    assert check_memory(dimensions, DEVICE, must_fit=True).startswith("fits: ")
    monkeypatch.setattr(checks, "available_bytes", lambda _: 2**30)
    assert "does not fit" in check_memory(dimensions, DEVICE, must_fit=False)
    with pytest.raises(MemoryError, match="does not fit"):
        check_memory(dimensions, DEVICE, must_fit=True)


def test_attention_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "against fp32" in check_attention(DEVICE)
    right = checks.falqon_attention
    monkeypatch.setattr(
        checks, "falqon_attention", lambda *args, **kwargs: (1.1 * right(*args, **kwargs)[0], None)
    )
    with pytest.raises(ArithmeticError, match="wrong: output 20 dB"):
        check_attention(DEVICE)
