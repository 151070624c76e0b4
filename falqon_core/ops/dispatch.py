"""The one dispatch point: an operator is its plain-torch oracle plus kernels by device type.

`@operator` turns an oracle into a callable that looks at the device of its first tensor. A kernel
for a device is added with `some_operator.kernels["cuda"] = kernel`; it takes the same arguments and
is tested against `some_operator.oracle`. What is given up: no choice by shape or dtype here; a
kernel that cannot do a shape must pad or call the oracle itself.
"""

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class operator(Generic[P, R]):
    def __init__(self, oracle: Callable[Concatenate[Tensor, P], R]) -> None:
        self.oracle = oracle
        self.kernels: dict[str, Callable[Concatenate[Tensor, P], R]] = {}
        self.__doc__ = oracle.__doc__

    def __call__(self, first: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.kernels.get(first.device.type, self.oracle)(first, *args, **kwargs)
