"""Requirements of training on a GPU besides the card, checked before anything is loaded on it."""

from collections.abc import Callable, Mapping

import torch

from falqon_core.contract.errors import DeviceUnfit
from falqon_core.ops.dispatch import faults_on
from falqon_core.ops.toolchain import check_compiler

# Before it, FP8 products with scales by row left the current stream on sm_89 (pytorch#177651).
MIN_TORCH = (2, 12)


def check_gpu_needs(device: torch.device, warn: Callable[[str], None]) -> None:
    """Try everything that a training on this device will launch; a CPU needs nothing.

    Kernels that fail are told to `warn` and done without (`ops/self_check.py`). Raises
    `DeviceUnfit` (param `device`) for a torch that is too old, or no C compiler.
    """
    if device.type != "cuda":
        return
    check_torch(torch.__version__)
    check_compiler()
    if faults := faults_on(device):
        warn(describe_faults(torch.cuda.get_device_name(device), faults))


def check_torch(version: str) -> None:
    """Raise `DeviceUnfit` when `version` is too old for a GPU."""
    major, minor = version.split(".")[:2]
    if (int(major), int(minor)) < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        raise DeviceUnfit(
            f"torch {version} is installed, and a GPU needs {needed} or later: "
            f"pip install --upgrade 'torch>={needed}'",
            "device",
        )


def describe_faults(device: str, faults: Mapping[str, str]) -> str:
    """Return one sentence on the operators that fall back to plain torch on `device`, by reason."""
    names: dict[str, list[str]] = {}
    for name, fault in sorted(faults.items()):
        names.setdefault(fault, []).append(name)
    reasons = "; ".join(f"{', '.join(group)} ({fault})" for fault, group in names.items())
    return (
        f"plain torch computes in the place of {len(faults)} kernels that cannot be used on "
        f"{device}, slower and with the same results: {reasons}"
    )
