"""The check of a file's records with a deadline that goes by the file's size. Free of the web framework: a worker runs it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

from app.processes.parent_death import leashed
from app.processes.subprocess_env import offline_environment
from falqon_core.records import checker
from falqon_core.records.file_check import FileReport, check_file
from falqon_core.records.jsonl import RecordError, lines_of

SMALL_BYTES = 2**16  # checked without a process of its own, which costs more than the check
BASE_SECONDS = 60  # of CPU time, as all here
BYTES_PER_SECOND = 10**6  # records of ten bytes are checked twice as fast, usual ones fifty times


class CheckFailed(Exception):
    """The process of a check has ended without a report, and not because of its deadline."""


def check_records(chunks: Iterable[bytes], size: int) -> FileReport:
    """Return the report on a file of `size` bytes; a file whose check exceeds its deadline has that as its fault."""
    if size <= SMALL_BYTES:
        return check_file(lines_of(chunks))
    seconds = BASE_SECONDS + size // BYTES_PER_SECOND
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        exit_code = _feed_checker(chunks, seconds, output, log)
        output.seek(0)
        log.seek(0)
        if exit_code == -signal.SIGXCPU:
            return _too_slow(size, seconds)
        if exit_code != 0:
            raise CheckFailed(f"the check ended with {exit_code}: {log.read().decode(errors='replace')}")
        return FileReport.model_validate_json(output.read())


def _feed_checker(chunks: Iterable[bytes], seconds: int, output: BinaryIO, log: BinaryIO) -> int:
    """Return how the process that reads the file has ended."""
    process = subprocess.Popen(
        leashed([sys.executable, "-m", checker.__name__, str(seconds)]),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=log,
        env=offline_environment(os.environ),
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError), process.stdin as pipe:  # it may end before the file does
            for chunk in chunks:
                pipe.write(chunk)
        return process.wait()
    finally:
        process.kill()
        process.wait()


def _too_slow(size: int, seconds: int) -> FileReport:
    message = f"the check of the file was ended after {seconds} seconds, the limit for {size} bytes"
    advice = "split the file, and shorten lines that hold far more than the others"
    return FileReport(num_errors=1, errors=[RecordError(line=1, column=1, field="", message=message, advice=advice)])
