"""Requirements of training on a GPU besides the card, checked before anything is loaded on it."""

from collections.abc import Callable, Mapping

import torch

from falqon_core.contract.errors import DeviceUnfit
from falqon_core.estimate.cards import MIN_CAPABILITY, Capability
from falqon_core.ops.dispatch import faults_on
from falqon_core.ops.toolchain import check_compiler

MIN_TORCH = (2, 11)
# Before these, by capability: FP8 products with scales by row left the current stream on sm_89
# (pytorch#177651).
MIN_TORCH_OF = {(8, 9): (2, 12)}


def check_gpu_needs(device: torch.device, warn: Callable[[str], None]) -> None:
    """Try everything that a training on this device will launch; a CPU needs nothing.

    Kernels that fail are told to `warn` and done without (`ops/self_check.py`). Raises
    `DeviceUnfit` (param `device`) for a torch that is too old, or no C compiler.
    """
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    check_capability(torch.cuda.get_device_name(device), capability)
    check_torch(torch.__version__, capability)
    check_compiler()
    if faults := faults_on(device):
        warn(describe_faults(torch.cuda.get_device_name(device), faults))


def check_capability(name: str, capability: Capability) -> None:
    """Raise `DeviceUnfit` for a card without bf16 in its tensor cores."""
    if capability < MIN_CAPABILITY:
        raise DeviceUnfit(
            f"{name} has compute capability {capability[0]}.{capability[1]}, and a training needs "
            f"{MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or later (bf16); take another card, or set "
            "FALQON_DEVICE=cpu",
            "device",
        )


def check_torch(version: str, capability: Capability) -> None:
    """Raise `DeviceUnfit` when `version` is too old for a GPU of this compute capability."""
    major, minor = version.split(".")[:2]
    floor = MIN_TORCH_OF.get(capability, MIN_TORCH)
    if (int(major), int(minor)) < floor:
        needed = ".".join(map(str, floor))
        raise DeviceUnfit(
            f"torch {version} is installed, and a GPU of compute capability "
            f"{capability[0]}.{capability[1]} needs {needed} or later: "
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
