"""Limits of time and memory for reading an external model, both by its size.

Beyond the first limit of time an exception ends the import; what cannot be interrupted then, one
long operation inside a library, is ended by the kernel (SIGXCPU) once it has used as much CPU time
on every core. Memory is that of the process itself; files that it maps do not count. It works in
the main thread only, and memory is limited on Linux only.
"""

import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from falqon_core.contract.errors import ModelError

BASE_IMPORT_SECONDS = 300.0  # Seconds of the clock, for a model of any size.
SECONDS_PER_GIB = 60.0
# The kernel counts a process' time in ticks, which need not agree with the clock that is read here.
EXTRA_CPU_SECONDS = 10
IMPORT_MEMORY_BYTES = (
    4 * 2**30
)  # The limit is on top of the memory that the process has taken before.
# A tensor of two bits a weight takes 50 times its bytes while it is converted, and 16 of them are
# at a time.
MEMORY_PER_BYTE = 16
GIB = 2**30


class _Overdue(BaseException):
    """Not an `Exception`, which a library might take for its own."""


def size_of(source: Path) -> int:
    """Return the bytes of a file, or of the files in a folder; 0 where there is none."""
    paths = source.rglob("*") if source.is_dir() else [source]
    return sum(path.stat().st_size for path in paths if path.is_file())


@contextmanager
def limit_resources(num_bytes: int) -> Iterator[None]:
    """Raise `ModelError` when a model of `num_bytes` takes more time or memory than a sound one."""
    seconds = BASE_IMPORT_SECONDS + SECONDS_PER_GIB * num_bytes / GIB
    memory = IMPORT_MEMORY_BYTES + MEMORY_PER_BYTE * num_bytes
    before = signal.signal(signal.SIGALRM, _end)
    limits = {
        kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CPU)
    }
    try:
        if sys.platform == "linux":
            _lower(resource.RLIMIT_DATA, _data_bytes() + memory)
        on_all_cores = seconds * (os.cpu_count() or 1) + EXTRA_CPU_SECONDS
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + on_all_cores))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except _Overdue:
        raise ModelError(
            f"reading the model took more than {seconds:.0f} s, the limit for its size"
        ) from None
    except MemoryError:
        raise ModelError(
            f"reading the model needs more than {memory / GIB:.1f} GiB of memory, the limit for "
            "its size"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, limit in limits.items():
            resource.setrlimit(kind, limit)
        signal.signal(signal.SIGALRM, before)


def _end(*_: object) -> None:
    raise _Overdue


def _lower(kind: int, soft: int) -> None:
    now, hard = resource.getrlimit(kind)
    limits = [limit for limit in (now, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min([soft, *limits]), hard))


def _data_bytes() -> int:
    """Return the bytes of this process that RLIMIT_DATA counts now."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
