"""Run external code, a chat template, for a bounded time and in bounded memory.

Both limits are the kernel's. Time is CPU time of this process, so a busy machine changes nothing.
After `CPU_SECONDS` a signal becomes `OutOfBounds`; what cannot be interrupted then, one long
operation inside Python, ends the process with SIGPROF after `FATAL_CPU_SECONDS`, which its
supervisor understands (`contract.messages.ENDLESS_TEMPLATE`). It works in the main thread only, and
memory is bounded on Linux only.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

CPU_SECONDS = 2.0
FATAL_CPU_SECONDS = 10.0
TEMPLATE_MEMORY_BYTES = (
    2**30
)  # The limit is on top of the memory that the process has taken before.
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Result = TypeVar("Result")


class OutOfBounds(Exception):
    """The code exceeded its time or its memory."""


def run_bounded(function: Callable[[], Result]) -> Result:
    """Call `function`. Raises its errors, and `OutOfBounds` where it exceeds time or memory."""
    before = signal.signal(signal.SIGVTALRM, _too_slow)
    memory = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, _memory_limit(memory))
        signal.setitimer(signal.ITIMER_PROF, FATAL_CPU_SECONDS)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        return function()
    except MemoryError:
        raise OutOfBounds(f"needs more than {TEMPLATE_MEMORY_BYTES >> 30} GiB of memory") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGVTALRM, before)


def _too_slow(*_: object) -> None:
    raise OutOfBounds(f"needs more than {CPU_SECONDS:g} seconds")


def _memory_limit(now: tuple[int, int]) -> tuple[int, int]:
    soft, hard = now
    if sys.platform != "linux":
        return now
    limit = _num_pages() * PAGE_BYTES + TEMPLATE_MEMORY_BYTES
    limits = [value for value in (soft, hard) if value != resource.RLIM_INFINITY]
    return min([limit, *limits]), hard


def _num_pages() -> int:
    """Return this process's pages: read bare, since a chat asks at each of its renderings."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 32).split()[0])
    finally:
        os.close(descriptor)
