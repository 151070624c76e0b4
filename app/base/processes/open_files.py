"""Limit of the files that a process may open."""

import resource

# Enough for what one process serves; some programs walk through all that they may open.
OPEN_FILES = 65_536


def raise_open_files() -> None:
    """Open as many files as this process may, as far as that helps; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
