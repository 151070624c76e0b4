"""The device of a training: the one that was promised, or an error that names the missing part."""

import torch

from falqon_core.contract.config import DeviceChoice
from falqon_core.contract.errors import DeviceMissing
from falqon_core.estimate.devices import reported_device


def select_device(choice: DeviceChoice, promised: str = "") -> torch.device:
    """Return the device to train on: for "auto" a GPU where torch sees one.

    `promised`: an entry of `estimate.devices` that the GPU has to be; empty: any. Raises
    `DeviceMissing` (param `device`) where "cuda" finds no GPU, or another one.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(
            f"device: a GPU was requested, but torch sees no GPU here: {why_no_gpu()}", "device"
        )
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    check_card(torch.cuda.get_device_name(), promised)
    return torch.device("cuda")


def check_card(name: str, promised: str) -> None:
    """Raise `DeviceMissing` when the driver's `name` is that of another device than promised. A
    name that no device has may be any.
    """
    device = reported_device(name)
    if promised and device is not None and device.name != promised:
        raise DeviceMissing(
            f"device: the card here is '{name}', which is {device.name}, and {promised} was "
            "promised; set FALQON_DEVICE of this worker to what it has, or to auto",
            "device",
        )


def why_no_gpu() -> str:
    """Say in one line why torch sees no GPU here, in torch's own words where it has some."""
    if torch.version.cuda is None:
        return (
            f"this torch ({torch.__version__}) is built for CPUs only; install a CUDA build, "
            "see pytorch.org/get-started"
        )
    try:
        torch.cuda.init()
    except Exception as error:  # Any kind of error may come from torch; its text is the reason.
        reason = " ".join(str(error).split())[:300]
        return (
            f"torch {torch.__version__} of CUDA {torch.version.cuda} says: {reason}; see whether "
            "`nvidia-smi` lists one, and its driver's version"
        )
    return "CUDA_VISIBLE_DEVICES names no card of this machine; `nvidia-smi` lists them"
