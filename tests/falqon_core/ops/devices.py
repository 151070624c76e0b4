"""Where kernels run in tests: on the GPU when there is one, otherwise on CPU tensors in Triton's interpreter."""

import torch
from torch import Tensor

KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def equal_codes(a: Tensor, b: Tensor) -> bool:
    """Equal as numbers: the two zeros of e4m3 are one."""
    return torch.equal(a.float(), b.float())


def codes_apart(a: Tensor, b: Tensor) -> Tensor:
    """How many steps of the e4m3 grid lie between the codes of a and b, element by element, int32."""

    def position(codes: Tensor) -> Tensor:
        bits = codes.view(torch.uint8).int()
        return torch.where(bits < 128, bits, 128 - bits)

    return (position(a) - position(b)).abs()
