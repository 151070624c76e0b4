"""Checks of everything that a training needs of this machine: `python -m falqon_core doctor`.

Each check is a function that returns its finding, raises `Skipped` with the reason not to run, or
raises anything else, which makes it a failed row and not the end. Software comes first, then the
checks of `bench.checks` on the device. Checks begin until the time is up; one that hangs is not
interrupted, so a caller sets a limit of its own.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from falqon_core.contract.diagnosis import Check, CheckRow, Diagnosis, Measurement, Skipped

DOCTOR_SECONDS = 52.0  # A check that begins last still ends within a minute.
DRIVER_SECONDS = 20.0
DRIVER_QUERY = "--query-gpu=index,name,driver_version,memory.total,compute_cap"
MAX_DETAIL_CHARACTERS = 400  # The limit is in characters.


def diagnose(model: Path | None, tell: Callable[[CheckRow], None]) -> Diagnosis:
    """Try everything, in order. `model`: the folder whose config.json says which sizes are
    measured, None for those of Llama-7B. `tell` gets each row when it is complete.
    """
    start = time.monotonic()
    rows: list[CheckRow] = []
    untried: list[str] = []
    for name, check in _checks(model):
        if time.monotonic() - start > DOCTOR_SECONDS:
            untried.append(name)
            continue
        rows.append(run_check(name, check))
        tell(rows[-1])
    if untried:
        detail = (
            f"{DOCTOR_SECONDS:.0f} s were up before {len(untried)} checks: {'; '.join(untried)}"
        )
        rows.append(CheckRow(name="time", status="skipped", detail=_shorten(detail), seconds=0))
        tell(rows[-1])
    return Diagnosis(rows=tuple(rows), seconds=round(time.monotonic() - start, 2))


def run_check(name: str, check: Check) -> CheckRow:
    """Run one check and time it; any exception becomes a row."""
    start = time.monotonic()
    tflops = None
    try:
        status, answer = "ok", check()
        detail, tflops = answer if isinstance(answer, Measurement) else (answer, None)
    except Skipped as reason:
        status, detail = "skipped", str(reason)
    # Any error is a result of its check; the others are still worth a try.
    except Exception as error:
        status, detail = "failed", " ".join(f"{type(error).__name__}: {error}".split())
    seconds = round(time.monotonic() - start, 2)
    row = {"name": name, "status": status, "detail": _shorten(detail)}
    return CheckRow.model_validate(row | {"seconds": seconds, "tflops": tflops})


def _checks(model: Path | None) -> Iterator[tuple[str, Check]]:
    """Yield the checks; imports of the later ones wait for their turn."""
    yield "driver", check_driver
    yield "torch", check_torch
    has_card = _sees_card()
    if has_card:
        yield "allocator", check_allocator
    for name, check in (("C compiler", check_compiler), ("Triton", check_triton)):
        yield name, check if has_card else partial(_without_need, check)
    if importlib.util.find_spec("torch") is not None:
        from falqon_core.bench.checks import device_checks

        yield from device_checks(model)


def check_driver() -> str:
    """Ask the driver for its cards."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise Skipped("there is no nvidia-smi on PATH, so no NVIDIA driver to query")
    answer = subprocess.run(
        [tool, DRIVER_QUERY, "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=DRIVER_SECONDS,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"nvidia-smi ended with {answer.returncode}: {answer.stdout}")
    return "; ".join(f"card {line}" for line in answer.stdout.splitlines())


def check_torch() -> str:
    """Compare torch with the driver: one that sees no card of a driver that has one is at fault."""
    import torch

    from falqon_core.train import gpu_needs
    from falqon_core.train.device import why_no_gpu

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            raise Skipped(f"no GPU: {why_no_gpu()}; trainings take the CPU")
        raise RuntimeError(f"torch sees no GPU: {why_no_gpu()}")
    properties = torch.cuda.get_device_properties(0)
    capability = (properties.major, properties.minor)
    gpu_needs.check_capability(properties.name, capability)
    gpu_needs.check_torch(torch.__version__, capability)
    free, total = torch.cuda.mem_get_info(0)
    return (
        f"torch {torch.__version__}, CUDA {torch.version.cuda}; {properties.name}, "
        f"sm_{properties.major}{properties.minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB "
        "free"
    )


def check_allocator() -> str:
    """Allocate as a training does."""
    import torch

    from falqon_core.train.allocator import describe_allocator

    torch.ones(2**22, device="cuda").sum().item()
    return describe_allocator()


def check_compiler() -> str:
    """Compile the module that Triton compiles at its first launch."""
    from falqon_core.ops import toolchain

    toolchain.check_compiler()
    return "it compiles modules of Python"


def check_triton() -> str:
    """Write to the folder of Triton's compiled kernels."""
    import triton

    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")
    return f"triton {triton.__version__}; its cache {folder} can be written to"


def _sees_card() -> bool:
    try:
        import torch

        return bool(torch.cuda.is_available())
    except ImportError:
        return False


def _without_need(check: Check) -> str | Measurement:
    """Run a check that matters on a GPU only."""
    try:
        return check()
    except Exception as error:
        raise Skipped(f"only needed with a GPU: {error}") from error


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_DETAIL_CHARACTERS else f"{text[: MAX_DETAIL_CHARACTERS - 1]}…"
