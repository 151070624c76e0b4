"""Where the tests keep their files."""

import os
import tempfile
from pathlib import Path

IN_MEMORY = Path("/dev/shm")
OTHERWISE = Path("/tmp")  # whose name is short, too
ENOUGH_BYTES = 8 * 2**30  # the suite keeps 1 GB, and jobs are refused where little is free


def choose_scratch() -> Path:
    """Make a file system in memory the place of temporary files, here and in every process that is
    started from here: each commit and each checkpoint waits for the disk elsewhere, which was a
    quarter of the time of many tests. `TMPDIR` chooses another. Returns a folder with a short name.
    """
    if "TMPDIR" in os.environ or not IN_MEMORY.is_dir():
        return OTHERWISE
    there = os.statvfs(IN_MEMORY)
    may_execute = not there.f_flag & os.ST_NOEXEC
    if may_execute and there.f_bavail * there.f_frsize >= ENOUGH_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)
        return IN_MEMORY
    return OTHERWISE
