"""The kinds of device that trainings run on: peak speed, memory, and the name that their driver
calls them.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

# Of `tflops`: the vendor's figure, that of a middling card of the same capability, or a rate of
# products that this card has reached.
Peak = Literal["listed", "assumed", "measured"]


class DeviceSpec(BaseModel):
    """`tflops` is the dense peak of the arithmetic the trainer uses there, per device (CPU: per
    core).

    `reported_as`: the names that the driver gives to this kind, and to none with another peak or
    another memory.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    tflops: float
    memory_gib: float | None = None
    has_fp8: bool = True
    peak: Peak = "listed"
    reported_as: tuple[str, ...] = ()


# Peaks are the vendors' dense figures; FP8 where the hardware has it, bf16 on A100. CPU: bf16 GEMM
# per core with AVX512-bf16. Memory: what the driver names, in whole GiB.
DEVICES: dict[str, DeviceSpec] = {
    device.name: device
    for device in (
        DeviceSpec(name="cpu", tflops=0.2),
        DeviceSpec(
            name="rtx-4090", tflops=330, memory_gib=23, reported_as=("NVIDIA GeForce RTX 4090",)
        ),
        DeviceSpec(name="l40s", tflops=733, memory_gib=44, reported_as=("NVIDIA L40S",)),
        DeviceSpec(
            name="a100",
            tflops=312,
            memory_gib=80,
            has_fp8=False,
            reported_as=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        ),
        DeviceSpec(name="h100", tflops=1979, memory_gib=79, reported_as=("NVIDIA H100 80GB HBM3",)),
        DeviceSpec(name="h200", tflops=1979, memory_gib=140, reported_as=("NVIDIA H200",)),
        DeviceSpec(name="b200", tflops=4500, memory_gib=179, reported_as=("NVIDIA B200",)),
    )
}


def reported_device(name: str) -> DeviceSpec | None:
    """Return the device that the driver calls `name`; None when its peak is not known here."""
    return next((device for device in DEVICES.values() if name in device.reported_as), None)
