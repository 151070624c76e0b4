"""Cards that the table of devices does not list: an entry is made from the driver's figures.

The name of such an entry carries its memory and its compute capability, "rtx-5090-31gib-sm120", so
that the service reads from it the figures of the worker's driver, on another machine. A part that
the driver does not report is left out.
"""

import re

from falqon_core.contract.block_weights import Weights
from falqon_core.estimate.devices import DEVICES, DeviceSpec, reported_device

Capability = tuple[int, int]

MIN_CAPABILITY: Capability = (8, 0)  # the first with bf16 in its tensor cores
FP8_CAPABILITY: Capability = (8, 9)  # the first with FP8 in its tensor cores
FP4_CAPABILITY: Capability = (10, 0)  # the first with e2m1 in blocks of 16 or 32 in them
MAX_NAME = 64  # as long as the name of a device may be in a request
MAX_MODEL = 44  # characters of the driver's name, which leaves room for both endings
MIB_PER_GIB = 1024

_NAME = re.compile(
    r"(?P<model>[a-z0-9]+(?:-[a-z0-9]+)*?)"
    r"(?:-(?P<memory>[1-9][0-9]{0,3})gib)?(?:-sm(?P<major>[0-9]{1,2})(?P<minor>[0-9]))?(?P<bare>-gpu)?"
)
_LEFT_OUT = frozenset({"nvidia", "geforce", "gpu"})  # words without information in a driver's name
_SLICE = re.compile(r"-mig-([1-7])(?:c-[1-7])?g-")
SLICES_OF_CARD = 7

# Dense TFLOP/s of a middling card of each capability, FP8 where the hardware has it, otherwise
# bf16, by the vendor's data sheets. They stand in for a measurement, and estimates say so.
ASSUMED_TFLOPS: dict[Capability, float] = {
    (8, 0): 312,  # A100
    (8, 6): 71,  # RTX 3090, A10G
    (8, 7): 50,  # Orin
    (8, 9): 240,  # between L4 and RTX 6000 Ada
    (9, 0): 1500,  # H100 PCIe
    (10, 0): 4500,  # B200
    (10, 3): 4500,  # B300
    (11, 0): 500,  # Thor
    (12, 0): 400,  # RTX 5090
    (12, 1): 250,  # GB10
}
UNKNOWN_TFLOPS = 200.0


def native_weights(capability: Capability | None) -> tuple[Weights, ...]:
    """Return the forms of weights that a card's tensor cores multiply, with activations in the same
    form; none on a CPU.
    """
    if capability is None or capability < FP8_CAPABILITY:
        return ()
    return ("fp8",) if capability < FP4_CAPABILITY else ("fp8", "nvfp4", "mxfp4")


def device_of_card(
    name: str, memory_mib: int | None = None, capability: Capability | None = None
) -> DeviceSpec | None:
    """Return the device of a card: the table's, or one made from these figures. None for a card
    that is too old to train on, or that has no name.
    """
    if capability is not None and capability < MIN_CAPABILITY:
        return None
    if (listed := reported_device(name)) is not None:
        return listed
    model = _model_of(name)
    memory = "" if memory_mib is None else f"-{max(1, memory_mib // MIB_PER_GIB)}gib"
    compute = "" if capability is None else "-sm{}{}".format(*capability)
    return find_device(f"{model}{memory}{compute}" if memory or compute else f"{model}-gpu")


def find_device(name: str) -> DeviceSpec | None:
    """Return the table's device of this name, or the card that its name describes; None for a name
    that describes none.
    """
    if (listed := DEVICES.get(name)) is not None:
        return listed
    match = _NAME.fullmatch(name) if len(name) <= MAX_NAME else None
    if match is None or bool(match["memory"] or match["major"]) == bool(match["bare"]):
        return None
    capability = (int(match["major"]), int(match["minor"])) if match["major"] else None
    if capability is not None and capability < MIN_CAPABILITY:
        return None
    tflops = ASSUMED_TFLOPS.get(capability, UNKNOWN_TFLOPS) if capability else UNKNOWN_TFLOPS
    if share := _SLICE.search(f"{match['model']}-"):
        tflops *= int(share[1]) / SLICES_OF_CARD
    return DeviceSpec(
        name=name,
        tflops=round(tflops, 1),
        memory_gib=float(match["memory"]) if match["memory"] else None,
        has_fp8=capability is None or capability >= FP8_CAPABILITY,
        peak="assumed",
    )


def with_measured_peak(device: DeviceSpec, tflops: float | None) -> DeviceSpec:
    """Let a measured rate of its products stand in for a peak that was assumed."""
    if tflops is None or device.peak != "assumed":
        return device
    return device.model_copy(update={"tflops": round(tflops, 1), "peak": "measured"})


def _model_of(name: str) -> str:
    """Return the driver's name in small letters, digits and hyphens."""
    words = re.findall("[a-z0-9]+", name.lower()[: 2 * MAX_NAME])
    return "-".join(word for word in words if word not in _LEFT_OUT)[:MAX_MODEL].strip("-")
