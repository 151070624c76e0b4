"""The one dispatch point: an operator is its plain-torch oracle plus kernels by device type.

`@operator` turns an oracle into a callable that looks at the device of its first tensor. A kernel
for a device is added with `some_operator.kernels["cuda"] = kernel`; it takes the same arguments and
is tested against `some_operator.oracle`. Beside the oracle stand the small inputs on which a kernel
has to prove itself on the device at hand (`ops/self_check.py`); one that does not is left alone
there, and the oracle computes in its place. What is given up: no choice by shape or dtype here; a
kernel that cannot do a shape must pad or call the oracle itself.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from falqon_core.ops import self_check
from falqon_core.ops.samples import Samples

P = ParamSpec("P")
R = TypeVar("R")


class operator(Generic[P, R]):
    """An oracle with kernels by device type, called as the oracle is."""

    def __init__(self, oracle: Callable[Concatenate[Tensor, P], R]) -> None:
        self.oracle = oracle
        self.kernels: dict[str, Callable[Concatenate[Tensor, P], R]] = {}
        self.samples: Samples | None = None
        self.name = f"{oracle.__module__.rpartition('.')[2]}.{oracle.__name__}"
        self.__doc__ = oracle.__doc__

    def __call__(self, first: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        kernel = self.kernels.get(first.device.type)
        if kernel is None or self_check.fault_of(self, kernel, first.device) is not None:
            return self.oracle(first, *args, **kwargs)
        return kernel(first, *args, **kwargs)

    def tried_on(self, samples: Samples) -> Samples:
        """Decorate the function that yields the samples on which kernels prove themselves."""
        self.samples = samples
        return samples

    def fault(self, device: torch.device) -> str | None:
        """Return the reason not to use the kernel for `device` there; None where it is used, or
        there is none.
        """
        kernel = self.kernels.get(device.type)
        return None if kernel is None else self_check.fault_of(self, kernel, device)


def operators() -> "Iterator[operator[..., Any]]":
    """Yield every operator of this package."""
    package = importlib.import_module("falqon_core.ops")
    for module in pkgutil.iter_modules(package.__path__):
        name = f"{package.__name__}.{module.name}"
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, operator) and value.oracle.__module__ == name:
                yield value


def faults_on(device: torch.device) -> dict[str, str]:
    """Try every kernel for `device`, unless there is a verdict already. Return the reasons of those
    that are not used there, by the operator's name.
    """
    faults = {each.name: each.fault(device) for each in operators()}
    return {name: fault for name, fault in faults.items() if fault is not None}
