"""Triton's launches, recorded and not run: which kernel, with which arguments, how often."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from falqon_core.ops.kernels import Build
from tests.falqon_core.trace.ledger import DEVICE, Ledger

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
# How often a kernel reads or writes an argument, where that is more than once. `refresh_kernel`
# reads a base again only in rows whose scale moves, and what a program has just written or read of
# its row it reads again from cache.
PASSES = {
    ("refresh_kernel", "qdata"): 2,
    ("stochastic_kernel", "qdata"): 2,
    ("rotate_qkv_kernel", "qkv"): 2,
    ("softmax_losses_kernel", "logits"): 2,
}
# Kernels that multiply, and the argument that counts the rows of their product.
PRODUCT_ROWS = {"grad_a_kernel": "num_ranks", "grad_b_kernel": "num_columns"}


class Specialization(NamedTuple):
    """What Triton compiles once: `signature` as (name, type), `divisible` the names of arguments
    that are multiples of 16, `constants` and `options` as (name, value).
    """

    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[str, ...]
    options: tuple[tuple[str, int], ...]

    def build(self, kernel: Any) -> Build:
        """Return it as the gate of `ops/compile.py` takes it."""
        return Build(kernel, dict(self.signature), dict(self.constants), **dict(self.options))


class Recorder:
    """`counts` of every specialization; `kernels` by name."""

    def __init__(self, ledger: Ledger) -> None:
        self.counts: Counter[Specialization] = Counter()
        self.kernels: dict[str, Any] = {}
        self._ledger = ledger

    def record(self, kernel: Any, arguments: Mapping[str, Any], options: Mapping[str, int]) -> None:
        name = kernel.__name__
        # what is passed twice, as the stand-in for an argument that is not used, is read once
        tensors = {}
        for parameter, value in arguments.items():
            if isinstance(value, Tensor):
                assert value.device == DEVICE, f"{name}: {parameter} is on {value.device}"
                tensors.setdefault(memory_of(value), (parameter, value))
        self.kernels[name] = kernel
        self.counts[specialization(kernel, arguments, options)] += 1
        num_bytes = sum(
            value.numel() * value.element_size() * PASSES.get((name, parameter), 1)
            for parameter, value in tensors.values()
        )
        if name in PRODUCT_ROWS:
            sizes = [arguments[size] for size in ("num_tokens", "num_ranks", "num_columns")]
            flops, num_rows = 2.0 * math.prod(sizes), arguments[PRODUCT_ROWS[name]]
            self._ledger.add(f"triton.{name}", num_bytes, flops, num_rows=num_rows)
            return
        self._ledger.add(f"triton.{name}", num_bytes)


def memory_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors share that are the same view of the same memory."""
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.dtype, tensor.shape


def specialization(
    kernel: Any, arguments: Mapping[str, Any], options: Mapping[str, int]
) -> Specialization:
    signature = {}
    constants = {}
    divisible = []
    for parameter in kernel.params:
        name, value = parameter.name, arguments[parameter.name]
        if (
            parameter.is_constexpr
            or value is None
            or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize)
        ):
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            if value.storage_offset() * value.element_size() % 16 == 0:
                divisible.append(name)
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                divisible.append(name)
    return Specialization(
        kernel.__name__,
        tuple(signature.items()),
        tuple(constants.items()),
        tuple(divisible),
        tuple(sorted(options.items())),
    )


@contextmanager
def recorded_launches(recorder: Recorder) -> Iterator[None]:
    """Record every launch of a Triton kernel; none runs."""
    original: Callable[..., Any] = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        names = [parameter.name for parameter in self.params]
        arguments = dict(zip(names, args, strict=False))
        arguments |= {
            parameter.name: parameter.default
            for parameter in self.params
            if parameter.has_default and parameter.name not in arguments
        }
        options = {}
        for name, value in kwargs.items():
            (arguments if name in names else options)[name] = value
        recorder.record(self, arguments, options)

    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original
