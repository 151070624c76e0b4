"""The files of a batch: its answers in the order of the requests, and the requests without one."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from app.base.database import Database
from app.batches import repository
from app.models import Batch
from worker.batches.lines import BatchLine, read_lines
from worker.batches.requests import unasked

READ_AT_ONCE = 100  # answers in memory


class UnaskedReason(NamedTuple):
    code: str
    message: str


REASONS = {
    "expired": UnaskedReason(
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": UnaskedReason(
        "batch_cancelled", "This request was not executed before the batch was cancelled."
    ),
}


class WrittenFiles(NamedTuple):
    num_completed: int
    num_failed: int
    output: Path
    errors: Path


def write_files(
    database: Database,
    batch: Batch,
    requests: Path,
    folder: Path,
    reason: UnaskedReason,
    heartbeat: Callable[[], None],
) -> WrittenFiles:
    """Write a line for each request, into one of two files. `reason`: of those not executed."""
    output, errors = folder / "output.jsonl", folder / "errors.jsonl"
    counts = {False: 0, True: 0}
    with output.open("wb") as answered, errors.open("wb") as failed:
        for lines in _in_groups(read_lines(requests, batch.endpoint, heartbeat)):
            with database.read() as session:
                first, last = lines[0].number, lines[-1].number
                answers = repository.answers_between(session, batch.id, first, last)
            for line in lines:
                answer = answers.get(line.number)
                if answer is None:
                    content, has_failed = unasked(line.custom_id, *reason), True
                else:
                    content, has_failed = answer.content, answer.has_failed
                _write(failed if has_failed else answered, content)
                counts[has_failed] += 1
    return WrittenFiles(counts[False], counts[True], output, errors)


def _write(file: BinaryIO, content: str) -> None:
    file.write(content.encode() + b"\n")


def _in_groups(lines: Iterable[BatchLine]) -> Iterator[list[BatchLine]]:
    remaining = iter(lines)
    while group := list(islice(remaining, READ_AT_ONCE)):
        yield group
