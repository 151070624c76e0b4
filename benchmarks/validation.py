"""How fast an uploaded file is checked, beside `json.loads` of every line, in one run on one core;
and what memory it takes.

    python -m benchmarks.validation --data GSM8K.jsonl [--megabytes 512]

The data's rows (`question`, `answer`) become chat records, repeated to the asked size; they stream,
as an upload does. Figures are megabytes (10^6) per second of the process's CPU time, so that other
work on the machine does not count.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import CHUNK_BYTES, lines_of


def chunks(block: bytes, size: int) -> Iterator[bytes]:
    """About `size` bytes of whole blocks."""
    for _ in range(max(1, size // len(block))):
        for start in range(0, len(block), CHUNK_BYTES):
            yield block[start : start + CHUNK_BYTES]


def chat_lines(data: Path) -> bytes:
    rows = [json.loads(line) for line in data.read_bytes().splitlines()]
    turns = [
        [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        for row in rows
    ]
    return b"".join(json.dumps({"messages": messages}).encode() + b"\n" for messages in turns)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=512)
    arguments = parser.parse_args()
    block = chat_lines(arguments.data)
    size = arguments.megabytes * 10**6
    total = max(1, size // len(block)) * len(block) / 1e6

    started = time.process_time()
    report = check_file(lines_of(chunks(block, size)))
    ours = total / (time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    started = time.process_time()
    for line in lines_of(chunks(block, size)):
        json.loads(line)
    parsing = total / (time.process_time() - started)

    print(f"{report.summary()}, {total:.0f} MB")
    print(
        f"check_file {ours:.0f} MB/s, json.loads {parsing:.0f} MB/s, ratio {ours / parsing:.2f}; "
        f"peak memory {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
