"""Information elastic connection (IR-QLoRA, arXiv 2402.05445): an adapter whose two products each
have a connection past them, with a scalar that trains from 0.

    z  = A x + beta1 U(x)      U: the means of r equal parts of x [I]
    y += scaling * (B z + beta2 R(z))      R: each of the r numbers O / r times

Both are linear, so they are computed as the ordinary adapter A + beta1 P, B + beta2 R with the
block matrices P and R: one product each, and the merged weight is exact. With groups A reads one
number for each g inputs, their sum by sqrt(g), and U all inputs, as in the authors' variant for
integers; what is given up is that A's product could be g times smaller.
"""

import torch
from torch import Tensor, nn

from falqon_core.export.adapter import expand_groups, fold_connections
from falqon_core.methods.adapter import Adapter


class IecAdapter(Adapter):
    """Rank has to divide I and O; A is [r, I / group_size]."""

    def __init__(
        self, name: str, weight: Tensor, rank: int, scaling: float, seed: int, group_size: int = 1
    ) -> None:
        # One column a group, [O, I / g]: only sizes and device are read.
        super().__init__(name, weight[:, ::group_size], rank, scaling, seed)
        self.group_size = group_size
        # The scalars of both connections, fp32 [1], begin at zero: the model starts as its base.
        self.beta1 = nn.Parameter(torch.zeros(1, device=weight.device))
        self.beta2 = nn.Parameter(torch.zeros(1, device=weight.device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A [r, I] and B [O, r] with groups expanded and both connections folded in."""
        a = expand_groups(self.lora_a, self.group_size)
        return fold_connections(a, self.lora_b, self.beta1, self.beta2)
