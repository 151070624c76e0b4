"""A kernel that does not compile, or computes something else, is not used and is named."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from falqon_core.contract.errors import FalqonError, OutOfMemory, as_falqon_error
from falqon_core.ops import self_check
from falqon_core.ops.dispatch import operator, operators
from falqon_core.ops.samples import SampleInput, result_alone

CPU = torch.device("cpu")


def doubling() -> operator[Any, Tensor]:
    """An operator with samples and no kernel."""

    @operator
    def double(x: Tensor) -> Tensor:
        return 2 * x

    double.tried_on(lambda draw: [SampleInput((draw.normal(3, 5),), result_alone)])
    return double


def refusing(x: Tensor) -> Tensor:
    raise RuntimeError("\n no kernel image is available\nand a long explanation")


def wrong(x: Tensor) -> Tensor:
    return 2.5 * x


def not_a_number(x: Tensor) -> Tensor:
    return x / 0 * 0


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the next call what a process has that has just begun: the disk."""
    monkeypatch.setattr(self_check, "_faults", {})


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (refusing, "RuntimeError: no kernel image is available"),
        (wrong, "its result is wrong: 12 dB where 40 are due"),
        (not_a_number, "its result is wrong: nan dB where 40 are due"),
    ],
)
def test_one_that_fails_or_lies_is_replaced_by_the_oracle_and_named_once(
    kernel: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    double = doubling()
    double.kernels["cpu"] = kernel
    with caplog.at_level(logging.WARNING):
        assert [double(torch.ones(1)).item() for _ in range(3)] == [2.0, 2.0, 2.0]
    assert double.fault(CPU) == fault
    assert caplog.text.count(fault) == 1
    assert caplog.text.count("test_self_check.double") == 1


def test_one_that_computes_what_its_oracle_does_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    double = doubling()
    runs: list[int] = []

    def right(x: Tensor) -> Tensor:
        runs.append(len(x))
        return x + x

    double.kernels["cpu"] = right
    assert double(torch.ones(1)).item() == 2.0
    assert runs == [3, 1], "the sample, then the call"
    forget(monkeypatch)
    assert double(torch.ones(1)).item() == 2.0
    assert runs == [3, 1, 1]


@pytest.mark.parametrize("content", [b"", b"{", b'{"faults": 3}'])
def test_a_broken_file_holds_no_verdicts(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    double = doubling()
    double.kernels["cpu"] = wrong
    assert double.fault(CPU) is not None
    (file,) = self_check.verdicts_path(CPU).parent.iterdir()
    assert file.parent.stat().st_mode & 0o777 == 0o700
    whole = file.read_bytes()
    file.write_bytes(content)
    forget(monkeypatch)
    assert double(torch.ones(1)).item() == 2.0
    assert file.read_bytes() == whole


def test_memory_that_is_out_is_no_verdict() -> None:
    double = doubling()

    def hungry(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    double.kernels["cpu"] = hungry
    with pytest.raises(torch.OutOfMemoryError) as caught:
        double(torch.ones(1))
    assert isinstance(as_falqon_error(caught.value), OutOfMemory)
    double.kernels["cpu"] = lambda x: x + x
    assert double(torch.ones(1)).item() == 2.0


def test_a_kernel_that_costs_the_device_is_left_alone_by_the_next_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device "meta" answers nothing, as a GPU after an illegal access."""
    double = doubling()
    double.kernels["meta"] = wrong
    with pytest.raises(FalqonError, match="the next attempt does without that kernel"):
        double(torch.ones(1, device="meta"))
    forget(monkeypatch)
    assert double(torch.ones(1, device="meta")).shape == (1,)


def mixing_up_rows(tried: operator[Any, Any]) -> Any:
    return lambda first, *rest: tried.oracle(first.flip(0), *rest)


@pytest.mark.parametrize(
    "tried", [each for each in operators() if each.kernels], ids=lambda each: each.name
)
def test_every_kernel_has_inputs_that_tell_it_from_a_wrong_one(tried: operator[Any, Any]) -> None:
    assert tried.samples is not None, "write them beside the oracle: @OPERATOR.tried_on"
    assert self_check.try_kernel(tried, tried.kernels["cuda"], CPU) is None
    fault = self_check.try_kernel(tried, mixing_up_rows(tried), CPU)
    assert fault is not None
    assert fault.startswith("its result is wrong")


A100 = """
import torch
from falqon_core.ops.compile import builds, compile_for, name_of
from falqon_core.ops.quantize import BUILDS, quantize_codes
from falqon_core.ops.self_check import first_line

def compile_for_a100(x, column_scale=None):
    print("compiling")
    return compile_for(BUILDS[0], 80)

quantize_codes.kernels["cpu"] = compile_for_a100
x = torch.randn(3, 32)
qdata, scale = quantize_codes(x)
assert torch.equal(qdata.float(), quantize_codes.oracle(x)[0].float())
print(quantize_codes.fault(x.device))
"""
REFUSED = """
for build in builds():
    try:
        compile_for(build, 80)
        fault = "compiles"
    except Exception as error:
        fault = first_line(error)
    has_e4m3 = "fp8e4nv" in str(build.signature)
    assert has_e4m3 == ("fp8e4nv not supported" in fault), (name_of(build), fault)
print("all refused")
"""


def test_a_card_without_e4m3_falls_back_and_the_next_process_knows() -> None:
    """Compiled for sm_80 by Triton itself, in processes without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    lines = []
    for script in (A100 + REFUSED, A100):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines())
    (compiling, fault, refused), later = lines
    assert (compiling, refused) == ("compiling", "all refused")
    assert "fp8e4nv not supported" in fault
    assert later == [fault]
