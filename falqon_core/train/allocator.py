"""torch's allocator on a GPU: with segments that grow, microbatches of different lengths leave no
holes.

Under WSL2 and on a vGPU the first allocation of such a segment may fail ("CUDA driver error"), so
a separate process tries one there, and they are left off if that fails.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

GROWING = "expandable_segments:True"
FIXED = "expandable_segments:False"
VARIABLE = "PYTORCH_ALLOC_CONF"
OLD_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"  # the name before torch 2.9
PROBE_SECONDS = 120.0  # an import of torch from a cold disk and the start of CUDA
OS_RELEASE = Path("/proc/sys/kernel/osrelease")
DRIVER_CARDS = Path("/proc/driver/nvidia/gpus")

_VIRTUAL_CARD = re.compile(r"^Model:\s+(.*\bGRID\b.*|.*-[0-9]{1,3}[ABCQ])$", re.MULTILINE)
_PROBE = """
import torch
if torch.cuda.is_available():
    blocks = [torch.ones(2**22, device="cuda") for _ in range(8)]
    assert sum(block.sum().item() for block in blocks) == 8 * 2**22
"""


def choose_allocator() -> None:
    """Set the environment of torch's allocator, unless it is set; before CUDA starts."""
    if VARIABLE in os.environ or OLD_VARIABLE in os.environ:
        return
    grows = not may_refuse_segments() or allocates(GROWING)
    os.environ[VARIABLE] = GROWING if grows else FIXED


def may_refuse_segments() -> bool:
    """Return True on a kind of machine where growing segments are known to fail."""
    return "microsoft" in _text_of(OS_RELEASE).lower() or any(
        _VIRTUAL_CARD.search(_text_of(path)) for path in DRIVER_CARDS.glob("*/information")
    )


def allocates(configuration: str) -> bool:
    """Try this configuration of the allocator in a separate process."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=os.environ | {VARIABLE: configuration},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def describe_allocator() -> str:
    """Describe the choice in a sentence."""
    configuration = os.environ.get(VARIABLE) or os.environ.get(OLD_VARIABLE, "")
    if configuration == FIXED:
        return "segments of fixed sizes: growing ones failed here when they were tried"
    return f"{configuration or 'torch chooses'}; memory was allocated"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
