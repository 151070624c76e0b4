"""Where kernels run in tests (on the GPU when there is one, otherwise on CPU tensors in Triton's
interpreter) and how results compare.
"""

import pytest
import torch
from torch import Tensor

from falqon_core.ops.scaled_mm import rowwise

KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _multiplies_by_row() -> bool:
    codes = torch.ones(16, 16, device=KERNEL_DEVICE).to(torch.float8_e4m3fn)
    scale = torch.ones(16, 1, device=KERNEL_DEVICE)
    try:
        rowwise(codes, scale, codes, scale, False)
    except RuntimeError:
        return False
    return True


needs_rowwise = pytest.mark.skipif(
    not _multiplies_by_row(),
    reason=f"torch {torch.__version__} multiplies codes with scales by row on other devices only",
)


def equal_codes(a: Tensor, b: Tensor) -> bool:
    """Equal as numbers: the two zeros of e4m3 are one."""
    return torch.equal(a.float(), b.float())


def codes_apart(a: Tensor, b: Tensor) -> Tensor:
    """Return how many steps of the e4m3 grid lie between the codes of a and b, int32."""

    def position(qdata: Tensor) -> Tensor:
        bits = qdata.view(torch.uint8).int()
        return torch.where(bits < 128, bits, 128 - bits)

    return (position(a) - position(b)).abs()


def assert_close_codes(ours: Tensor, oracle: Tensor) -> None:
    """At most one code in a thousand differs, by one step: a value in another order of fp32
    additions may cross the middle of two codes.
    """
    steps = codes_apart(ours, oracle)
    assert (steps <= 1).all()
    assert steps.count_nonzero() <= steps.numel() / 1000


def assert_rounds_like(ours: Tensor, oracle: Tensor) -> None:
    """fp32: equal but for its last bits; bf16: at most one value in a thousand differs, by one unit
    in the last place.
    """
    if ours.dtype == torch.float32:
        torch.testing.assert_close(ours, oracle, rtol=1e-5, atol=1e-6)
    else:
        torch.testing.assert_close(ours, oracle, rtol=2**-7, atol=1e-30)
        assert (ours != oracle).count_nonzero() <= ours.numel() / 1000


def signal_to_noise(qdata: Tensor, scale: Tensor, exact: Tensor) -> float:
    """dB of `exact` above the error of codes * scale."""
    noise = qdata.float() * scale - exact
    return float(20 * torch.log10(exact.norm() / noise.norm()))
