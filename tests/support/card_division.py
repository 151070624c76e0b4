"""Division as CUDA computes it, on a machine without a card."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DIVISIONS = (torch.ops.aten.div.Tensor, torch.ops.aten.div_.Tensor)


class CardDivision(TorchDispatchMode):
    """Within it, what is divided by a number is multiplied by its rounded inverse. A divisor
    without axes counts as a number, since CUDA cannot tell it apart from one on the CPU.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in DIVISIONS and not (isinstance(args[1], Tensor) and args[1].ndim):
            values, divisor = args
            inverse = torch.ones(1, dtype=values.dtype) / torch.full((1,), float(divisor)).to(
                values.dtype
            )
            return values.mul_(inverse) if func is DIVISIONS[1] else values * inverse
        return func(*args, **(kwargs or {}))
