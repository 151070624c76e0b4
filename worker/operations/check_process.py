"""The check of a file's records, with a deadline that depends on the file's size."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import IO, BinaryIO

from app.base.processes.child_process import ChildProcess
from app.base.processes.subprocess_env import offline_environment
from falqon_core.records import checker
from falqon_core.records.file_check import FileReport, check_file
from falqon_core.records.jsonl import lines_of
from worker.operations.file_verdict import SPLIT_ADVICE, report_of_fault

# Files up to this size are checked in this process: another one costs more than the check.
SMALL_BYTES = 2**16
CHECK_POLL_SECONDS = 0.2  # between two calls of the heartbeat
BASE_SECONDS = 60  # CPU time, like all limits here.
BYTES_PER_SECOND = 10**6  # Records of ten bytes are checked twice as fast, usual ones fifty times.


class CheckFailed(Exception):
    """The process of a check has ended without a report, and not because of its deadline."""


def check_records(chunks: Iterable[bytes], size: int, heartbeat: Callable[[], None]) -> FileReport:
    """Return the report on a file of `size` bytes; a file whose check exceeds its deadline has that
    as its fault. `heartbeat` is called all the time and may raise to give up.
    """
    if size <= SMALL_BYTES:
        return check_file(lines_of(chunks))
    seconds = BASE_SECONDS + size // BYTES_PER_SECOND
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        exit_code = _feed_checker(chunks, seconds, output, log, heartbeat)
        output.seek(0)
        log.seek(0)
        if exit_code == -signal.SIGXCPU:
            limit = f"{seconds} seconds, the limit for {size} bytes"
            return report_of_fault(f"the check of the file was ended after {limit}", SPLIT_ADVICE)
        if exit_code != 0:
            raise CheckFailed(
                f"the check ended with {exit_code}: {log.read().decode(errors='replace')}"
            )
        return FileReport.model_validate_json(output.read())


def _feed_checker(
    chunks: Iterable[bytes],
    seconds: int,
    output: BinaryIO,
    log: BinaryIO,
    heartbeat: Callable[[], None],
) -> int:
    """Return the exit code of the process that reads the file."""
    process = ChildProcess(
        [sys.executable, "-m", checker.__name__, str(seconds)],
        offline_environment(os.environ),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=log,
    )
    assert process.stdin is not None
    # By a thread: while the process thinks about a line it takes nothing, and the lease goes on.
    with ThreadPoolExecutor(1) as pool, process:
        feeding = pool.submit(_feed, process.stdin, chunks)
        try:
            while not feeding.done():
                heartbeat()
                wait([feeding], CHECK_POLL_SECONDS)
        except BaseException:
            process.kill_group()  # The death of the process ends the feeding.
            wait([feeding])
            raise
        feeding.result()
        while (exit_code := process.wait_up_to(CHECK_POLL_SECONDS)) is None:
            heartbeat()
        return exit_code


def _feed(pipe: IO[bytes], chunks: Iterable[bytes]) -> None:
    with suppress(BrokenPipeError), pipe:  # The process may end before the file does.
        for chunk in chunks:
            pipe.write(chunk)
