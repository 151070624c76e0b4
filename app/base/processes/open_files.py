"""Limit of the files that a process may open."""

import resource

# Enough for the connections of one process; some programs iterate over all possible files.
OPEN_FILES = 65_536


def raise_open_files() -> None:
    """Raise the limit of open files as far as useful; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
