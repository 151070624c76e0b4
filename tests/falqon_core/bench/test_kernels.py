import importlib
import pkgutil

import pytest
import torch

from falqon_core import ops
from falqon_core.bench import kernels
from falqon_core.bench.kernels import LINES, Call, Line, Shapes, measure_kernels, sqnr_db
from falqon_core.ops.dispatch import operator

CPU = torch.device("cpu")


def test_every_operator_with_a_gpu_kernel_has_a_line() -> None:
    modules = [
        importlib.import_module(f"{ops.__name__}.{module.name}")
        for module in pkgutil.iter_modules(ops.__path__)
    ]
    operators = {
        id(value): name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, operator) and value.kernels
    }
    missing = {
        name for key, name in operators.items() if key not in {id(line.operator) for line in LINES}
    }
    assert len(operators) >= 13
    assert missing == set(), "write a Line for each in falqon_core/bench/kernels.py"


def test_a_kernel_that_fails_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    @operator
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @operator
    def broken(x: torch.Tensor) -> torch.Tensor:
        return x

    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\n no kernel image is available\nand a long explanation")

    double.kernels["cuda"] = lambda x: 2 * x + 0.001
    broken.kernels["cuda"] = refuse

    def ones(shapes: Shapes, draw: kernels.Draw) -> Call:
        return Call((torch.ones(shapes.tokens, shapes.hidden),))

    lines = [
        Line(candidate.oracle.__name__, "", candidate, ones, lambda _, result: [result])
        for candidate in (broken, double)
    ]
    monkeypatch.setattr(kernels, "LINES", lines)
    failed, measured = measure_kernels(Shapes(3, 5), CPU, None, 0)
    assert failed.status == "failed: RuntimeError: no kernel image is available"
    assert (measured.status, measured.moved) == ("measured", 2 * 15 * 4)
    assert measured.sqnr_db == pytest.approx(66.0, abs=0.1)


def test_noise_is_that_of_the_worst_tensor() -> None:
    exact = torch.full((4,), 100.0)
    assert sqnr_db([exact], [exact]) is None
    assert sqnr_db([exact + 1, exact, exact + 10], [exact, exact, exact]) == pytest.approx(20.0)
