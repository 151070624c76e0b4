import pytest
import torch

from falqon_core.bench import kernels
from falqon_core.bench.kernels import LINES, KernelCall, KernelLine, Shapes, measure_kernels
from falqon_core.ops.dispatch import operator, operators

CPU = torch.device("cpu")


def test_every_operator_with_a_gpu_kernel_has_a_line() -> None:
    names = {each.name for each in operators() if each.kernels}
    assert len(names) >= 13
    missing = names - {line.operator.name for line in LINES}
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

    def ones(shapes: Shapes, draw: kernels.KernelDraw) -> KernelCall:
        return KernelCall((torch.ones(shapes.tokens, shapes.hidden),))

    lines = [
        KernelLine(candidate.oracle.__name__, "", candidate, ones, lambda _, result: [result])
        for candidate in (broken, double)
    ]
    monkeypatch.setattr(kernels, "LINES", lines)
    failed, measured = measure_kernels(Shapes(3, 5), CPU, None, 0)
    assert failed.status == "failed: RuntimeError: no kernel image is available"
    assert (measured.status, measured.moved) == ("measured", 2 * 15 * 4)
    assert measured.sqnr_db == pytest.approx(66.0, abs=0.1)
