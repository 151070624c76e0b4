"""Show that this worker goes on: a file that it touches, whose age a health check reads.

An idle worker touches it after each poll, one with a job whenever it has renewed
the job's lease.
"""

from pathlib import Path

import structlog

log = structlog.get_logger()
_files: list[Path] = []


def show_in(file: Path | None) -> None:
    """Name the file of this process, or none."""
    _files[:] = [] if file is None else [file]


def beat() -> None:
    """Touch the file; a full disk must not end what the worker does."""
    for file in _files:
        try:
            file.touch()
        except OSError as error:
            log.warning("health not shown", file=str(file), error=str(error))
