"""The end of what a program wrote, as its failure shows it."""

import resource
from pathlib import Path

from worker.machine.subprocesses import MAX_KEPT_BYTES, last_lines


def test_the_last_lines_are_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(100_000)))
    with log.open("rb") as stream:
        assert last_lines(stream, 3) == "99997\n99998\n99999\n"
        first, *others = last_lines(stream, 10**6).split("\n")
    assert int(first) + len(others) == 100_000, "the line that was cut is left out"


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        stream.truncate(2**30)  # A file of zeros that takes no space.
        stream.seek(2**30)
        stream.write(b"the end")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with log.open("rb") as stream:
        text = last_lines(stream, 20)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (text.endswith("\0the end"), len(text)) == (True, MAX_KEPT_BYTES)
    assert grown < 64 * 2**10, "KiB"
