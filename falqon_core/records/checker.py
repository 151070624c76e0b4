"""The check of a file in a process of its own: `python -m falqon_core.records.checker SECONDS <
FILE > REPORT`.

The kernel ends it after that many seconds of its CPU time, within a single line as well; how slowly
the file arrives, and what else the machine does, change nothing.
"""

import resource
import sys

from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import CHUNK_BYTES, lines_of


def main(seconds: int) -> None:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard_limit))
    report = check_file(lines_of(iter(lambda: sys.stdin.buffer.read(CHUNK_BYTES), b"")))
    sys.stdout.buffer.write(report.model_dump_json().encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
