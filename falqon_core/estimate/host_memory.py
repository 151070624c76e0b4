"""The memory that this process may still take: the least of the machine's free memory, the rest
that its control groups (version 2) leave and the rest of its address space.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_host_bytes() -> int:
    """Return the bytes that this process may still take."""
    return max(0, min(_free_bytes()))


def _free_bytes() -> Iterator[int]:
    yield _kib_of(Path("/proc/meminfo"), "MemAvailable")
    group = next(
        (
            line[3:].strip("/")
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        ),
        "",
    )
    for folder in (CGROUPS / group, *(CGROUPS / group).parents):
        limit = folder / "memory.max"
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            used = int((folder / "memory.current").read_text())
            cache = next(
                int(line.split()[1])
                for line in (folder / "memory.stat").read_text().splitlines()
                if line.startswith("inactive_file ")
            )
            yield int(text) - used + cache
    if (limit_bytes := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        yield limit_bytes - _kib_of(Path("/proc/self/status"), "VmSize")


def _kib_of(path: Path, name: str) -> int:
    """Bytes from a line `NAME: NUMBER kB`."""
    return next(
        1024 * int(line.split()[1])
        for line in path.read_text().splitlines()
        if line.startswith(name + ":")
    )
