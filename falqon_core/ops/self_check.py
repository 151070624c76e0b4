"""Verdicts on kernels: each is tried once on the device at hand, and the verdict is stored on disk.

A kernel is compiled and run on its operator's small inputs (`ops/samples.py`) and compared with the
oracle. An exception (a card without e4m3 compiles no kernel that writes it) or another result is a
fault, and the operator computes by its oracle from then on: slower, and right. The verdict holds
for one card, driver, torch, Triton and source of the operators; a file names all of them, so that
every change is tried again. A fault that takes the device with it is written down before the
process ends, and the next process does without that kernel.

What is given up: small inputs show no fault that needs a large one.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ValidationError

from falqon_core.contract.errors import FalqonError, is_allocation_failure
from falqon_core.files import write_whole
from falqon_core.ops.kernels import triton
from falqon_core.ops.samples import Draw, Samples, sqnr_db

# One code in a thousand a step apart is 53 dB, bf16 rounded twice 50, FP16 partial sums 60.
MIN_SQNR_DB = 40.0
MAX_FAULT_LENGTH = 160

Kernel = Callable[..., Any]
logger = logging.getLogger(__name__)


class Tried(Protocol):
    """The part of an operator that is read here."""

    name: str
    oracle: Kernel
    samples: Samples | None


class Verdicts(BaseModel):
    """Stored verdicts; `faults` by kernel, null for one that agrees with its oracle."""

    faults: dict[str, str | None] = {}


_faults: dict[tuple[Tried, Kernel, torch.device], str | None] = {}


def fault_of(operator: Tried, kernel: Kernel, device: torch.device) -> str | None:
    """Return the reason not to use `kernel` for `operator` on `device`; None where it agrees with
    the oracle.

    Raises `FalqonError` where the trial has cost this process its device, and torch's error where
    memory is out.
    """
    key = (operator, kernel, device)
    if key not in _faults:
        if torch._guards.detect_fake_mode() is not None:
            return None  # A trace computes nothing that could be compared.
        _faults[key] = _remembered_fault(operator, kernel, device)
    return _faults[key]


def _remembered_fault(operator: Tried, kernel: Kernel, device: torch.device) -> str | None:
    name = f"{operator.name}/{kernel.__module__}.{kernel.__qualname__}"
    path = verdicts_path(device)
    faults = read_verdicts(path).faults
    if name in faults:
        return faults[name]
    fault = try_kernel(operator, kernel, device)
    lost = fault is not None and _is_lost(device)
    _write_verdict(path, name, fault)
    if fault is not None:
        logger.warning("the kernel of %s is not used on %s: %s", operator.name, device, fault)
    if lost:
        raise FalqonError(
            f"the device failed while the kernel of {operator.name} was tried on it; the next "
            "attempt does without that kernel"
        )
    return fault


@torch.no_grad()
def try_kernel(operator: Tried, kernel: Kernel, device: torch.device) -> str | None:
    """Run `kernel` on every sample of the operator. Return its fault, None where there is none.

    Raises torch's error where memory is out, which says nothing about a kernel.
    """
    if operator.samples is None:
        return None
    try:
        for sample in operator.samples(Draw(device)):
            noise = sqnr_db(sample.values_of(kernel), sample.values_of(operator.oracle))
            if noise is not None and not noise >= MIN_SQNR_DB:
                return f"its result is wrong: {noise:.0f} dB where {MIN_SQNR_DB:.0f} are due"
    # Errors of Triton and of torch have no common ancestor, and any of them rules this kernel out.
    except Exception as error:
        if is_allocation_failure(error):
            raise
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """Return the error's class and the first line of its text; of Triton's errors, which quote the
    source first, the line of the message itself.
    """
    message = str(getattr(error, "error_message", None) or error)
    text = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:MAX_FAULT_LENGTH]


def verdicts_path(device: torch.device) -> Path:
    """Return the file of the verdicts on this device, which need not exist."""
    described = json.dumps(_describe(device.type, device.index), sort_keys=True)
    name = hashlib.sha256(described.encode()).hexdigest()[:32]
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache_home) / "falqon" / "kernels" / f"{name}.json"


def read_verdicts(path: Path) -> Verdicts:
    """Read a file of verdicts. One that is missing or broken holds none."""
    try:
        return Verdicts.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Verdicts()


def _write_verdict(path: Path, name: str, fault: str | None) -> None:
    """Add a verdict. A folder that cannot be written to only costs trying the kernel again."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        verdicts = Verdicts(faults=read_verdicts(path).faults | {name: fault})
        write_whole(path, verdicts.model_dump_json(indent=2) + "\n")


@cache
def _describe(device_type: str, index: int | None) -> dict[str, str]:
    """Return everything that a verdict depends on."""
    described = {
        "device": device_type,
        "torch": torch.__version__,
        "triton": "" if triton is None else triton.__version__,
        "interpreted": os.environ.get("TRITON_INTERPRET", ""),
        "source": _source_sha256(),
    }
    if device_type == "cuda":
        driver = Path("/proc/driver/nvidia/version")
        described["device"] = torch.cuda.get_device_name(index)
        described["driver"] = driver.read_text() if driver.exists() else ""
    return described


def _source_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _is_lost(device: torch.device) -> bool:
    """Check whether the device is lost: after a kernel's illegal access every call of this process
    fails.
    """
    try:
        torch.ones(1, device=device).item()
    except Exception as error:
        return not is_allocation_failure(error)
    return False
