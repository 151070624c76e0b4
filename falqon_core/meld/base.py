"""The base of the anchored rule: the weights that the quantized rows are rebuilt from, never
written.

Kept as they came, or rounded to int8 with one scale a row. Eight bits are those of an integer and
not of e4m3, because a base in e4m3 would lie on the very grid that the rows are rounded to: a delta
of less than half of the grid's spacing, which most are, would leave them where they are. Off the
grid the share of a row's weights that step to a neighbour is what the delta asks for. What each
costs in loss was measured (method.md section 3).
"""

from typing import NamedTuple

from torch import Tensor

from falqon_core.contract.recipe_options import BaseCopy
from falqon_core.meld.host_base import HostBase
from falqon_core.ops.quantize import quantize_int8


class BaseWeight(NamedTuple):
    """`values` [O, I]: the weight in its own dtype, or int8 with `scale` fp32 [O, 1]. With `host`
    they lie there, and pass through the device in blocks.
    """

    values: Tensor
    scale: Tensor | None = None
    host: HostBase | None = None


def keep_base(weight: Tensor, base_copy: BaseCopy, host: HostBase | None = None) -> BaseWeight:
    """Return the base of a weight [O, I] on its device, or in `host`, which "host" needs where the
    device is no CPU.
    """
    if base_copy == "int8":
        return BaseWeight(*quantize_int8(weight))
    if base_copy == "host" and weight.device.type != "cpu":
        assert host is not None, "there is no host memory to keep the base in"
        return BaseWeight(host.place(weight), host=host)
    return BaseWeight(weight)
