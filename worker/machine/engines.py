"""The device on which the engines of this machine answer."""

import os
import shutil
import sys
from pathlib import Path

from app.base.processes.device import CPU, cores_of_slot, device_name
from app.base.settings import Settings


def find_vllm() -> str | None:
    """Return vLLM's command of this Python's environment, else of PATH, if there is one."""
    here = Path(sys.executable).parent
    return shutil.which("vllm", path=f"{here}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def device_of_engines(settings: Settings) -> tuple[str, int]:
    """Return the device by its name in the price table, and how many answer at once: vLLM takes a
    GPU, llama.cpp the cores of the CPU.
    """
    device = device_name(settings)
    if device != CPU and find_vllm() is not None:
        return device, 1
    return CPU, cores_of_slot(settings)
