"""Which device this machine offers, found without torch."""

import os
import subprocess
from typing import NamedTuple

from app.settings import Settings
from falqon_core.spec.estimate import DEVICES

QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


class Machine(NamedTuple):
    """`device` is a name of the price table where it has one. On `cpu`, `num_devices` counts cores."""

    device: str
    num_devices: int


def detect(settings: Settings) -> Machine:
    device = settings.device if settings.device != "auto" else _first_gpu() or "cpu"
    return Machine(device, (settings.num_threads or len(os.sched_getaffinity(0))) if device == "cpu" else 1)


def table_name(product: str) -> str:
    """The price table's name of a product, "NVIDIA H100 80GB HBM3" for example; unknown products keep their own."""
    words = product.lower().replace("-", " ").split()
    return next((name for name in DEVICES if any(word.startswith(name.removeprefix("rtx-")) for word in words)), "-".join(words))


def _first_gpu() -> str | None:
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    names = done.stdout.splitlines()
    return table_name(names[0]) if names else None
