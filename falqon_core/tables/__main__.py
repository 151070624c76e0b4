"""`python -m falqon_core.tables FILE --format parquet --output LINES.jsonl`: an external table
becomes JSON lines, in bounded memory and time.
"""

import argparse
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from falqon_core.contract.errors import (
    ColumnsUnknown,
    FalqonError,
    SourceTooLarge,
    SourceUnreadable,
    UserError,
    as_falqon_error,
)
from falqon_core.contract.messages import ExitCode, Failed, RecordsWritten, TrainerMessage, encode
from falqon_core.contract.sources import SourceFormat
from falqon_core.records.file_check import MAX_LINES
from falqon_core.tables import csv_rows, json_lines
from falqon_core.tables.columns import write_line
from falqon_core.tables.packed import refuse_binary, unpack

TABLE_MEMORY_BYTES = (
    1536 * 2**20
)  # More than any sound file needs; a damaged one may ask for anything.
BASE_SECONDS = 60  # CPU time.
BYTES_PER_SECOND = 10**6
SENT_EVERY_SECONDS = 1.0
FIRST_RECORDS = 5  # Reported at once, as a preview.


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    format: SourceFormat
    mapping: Mapping[str, str]


def write_table(
    source: Source, output: Path, max_bytes: int, send: Callable[[TrainerMessage], object]
) -> None:
    """Write the lines. Raises `UserError`; `output` is then worth nothing."""
    sent_at = time.monotonic()
    num_bytes = num_records = 0
    with _open(source) as (ignored, lines), output.open("wb") as file:
        for fraction, line in lines:
            num_records += 1
            num_bytes += len(line)
            if num_bytes > max_bytes or num_records > MAX_LINES:
                raise SourceTooLarge(
                    f"as JSON lines it has more than {max_bytes} bytes or {MAX_LINES} records; "
                    "split it"
                )
            file.write(line)
            if num_records == FIRST_RECORDS or time.monotonic() > sent_at + SENT_EVERY_SECONDS:
                file.flush()
                send(RecordsWritten(num_records=num_records, fraction=fraction))
                sent_at = time.monotonic()
    send(RecordsWritten(num_records=num_records, fraction=1.0, ignored_columns=ignored))


@contextmanager
def _open(source: Source) -> Iterator[tuple[list[str], Iterator[tuple[float, bytes]]]]:
    """Yield the columns that are left out, and the lines."""
    match source.format:
        case "json":
            yield [], json_lines.read_list(source.path, source.mapping)
            return
        case "jsonl":
            yield [], json_lines.read_lines(source.path, source.mapping)
            return
        case "csv":
            refuse_binary(source.path)
            opening = csv_rows.open_table(source.path, source.mapping)
        case "parquet":
            from falqon_core.tables import parquet_rows  # The library takes a while to load.

            opening = parquet_rows.open_table(source.path, source.mapping)
    with opening as table:
        yield table.ignored, ((fraction, write_line(row)) for fraction, row in table.rows)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--format", required=True, choices=["parquet", "csv", "json", "jsonl"])
    parser.add_argument("--mapping", type=json.loads, default={})
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, default=sys.maxsize)
    parser.add_argument("--message-fd", type=int, default=2)
    options = parser.parse_args(arguments)

    def send(message: TrainerMessage) -> None:
        os.write(options.message_fd, encode(message))

    try:
        limit_resources(options.source.stat().st_size)
        path = unpack(options.source, options.max_bytes)
        limit_resources(path.stat().st_size)
        source = Source(path, options.format, options.mapping)
        write_table(source, options.output, options.max_bytes, send)
        if path != options.source:
            path.unlink()
        return ExitCode.DONE
    except Exception as error:  # the edge of the process
        cause = _cause_of(error)
        if not isinstance(cause, UserError):
            traceback.print_exc()
        if isinstance(cause, ColumnsUnknown):
            send(RecordsWritten(num_records=0, fraction=0.0, ignored_columns=cause.columns))
        send(Failed(code=cause.code, message=str(cause), param=cause.param))
        return ExitCode.USER_ERROR if isinstance(cause, UserError) else ExitCode.INTERNAL


def _cause_of(error: Exception) -> FalqonError:
    if isinstance(error, MemoryError):
        limit = f"reading it needs more than {TABLE_MEMORY_BYTES // 2**20} MiB of memory"
        return SourceUnreadable(f"{limit}; write it with smaller row groups and rows")
    return as_falqon_error(error)


def limit_resources(num_bytes: int) -> None:
    seconds = BASE_SECONDS + num_bytes // BYTES_PER_SECOND
    for kind, soft in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, TABLE_MEMORY_BYTES)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (soft, hard))

    def end(*_: object) -> None:
        raise SourceUnreadable(f"reading it took more than {seconds} s, the limit for its size")

    signal.signal(signal.SIGXCPU, end)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
