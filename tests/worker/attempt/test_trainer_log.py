"""What a trainer writes beside its messages, whatever that is."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest

from app.models.trainer_log import HEAD_BYTES, TAIL_BYTES, TrainerLog
from worker.attempt.trainer_log import MAX_LINE_BYTES, LogReader


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[BinaryIO, LogReader]]:
    path = tmp_path / "trainer.log"
    with ExitStack() as stack:
        file = stack.enter_context(path.open("wb", buffering=0))
        yield file, LogReader(stack.enter_context(path.open("rb", buffering=0)))


@pytest.mark.parametrize("at_once", [1, 2**20])
def test_hostile_lines_become_harmless_text(
    written: tuple[BinaryIO, LogReader], at_once: int
) -> None:
    file, reader = written
    content = (
        b"<script>alert(1)</script>\n"
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \0\x7f\xff end\r\n"
        b"Authorization: Bearer abc, password=hunter22 hf_0123456789abcdefghij\n"
        b"\r 1 %\r 2 %\r100 %\n"
        b"no end"
    )
    for start in range(0, len(content), at_once):
        file.write(content[start : start + at_once])
        reader.read()
    reader.finish()
    assert reader.log == TrainerLog(
        head="<script>alert(1)</script>\n"
        "red ]0;title \N{REPLACEMENT CHARACTER} end\n"
        "Authorization: ***, password=*** hf_***\n"
        "100 %\n"
        "no end\n"
    )


def test_a_line_without_an_end_is_cut_and_no_secret_with_it(
    written: tuple[BinaryIO, LogReader],
) -> None:
    file, reader = written
    file.write(b"x" * (MAX_LINE_BYTES - 30) + b" hf_" + b"s" * 2**20)
    reader.finish()
    assert "[1,049,062 bytes of this line are left out]\n" in reader.log.head
    assert reader.num_bytes < MAX_LINE_BYTES
    assert "s" not in reader.log.head.partition(" [")[0]


def test_a_log_keeps_its_first_and_its_newest_lines(written: tuple[BinaryIO, LogReader]) -> None:
    file, reader = written
    lines = [b"%08d\n" % number for number in range(200_000)]
    position = 0
    pieces = []
    for start in range(0, len(lines), 60_000):  # the first is half a flood
        file.write(b"".join(lines[start : start + 60_000]))
        reader.read()
        pieces.append(reader.log.text_after(position))
        position = reader.num_bytes
    log = reader.log
    assert position == log.num_bytes == sum(map(len, lines))
    assert HEAD_BYTES - 9 < len(log.head) <= HEAD_BYTES
    assert TAIL_BYTES - 9 < len(log.tail) <= TAIL_BYTES
    note = f"[{log.left_out:,} bytes are left out here]\n"
    assert log.text_after(0) == log.head + note + log.tail
    assert "".join(pieces).encode() == b"".join(lines), "who follows it misses nothing"
    assert log.text_after(position) == ""


def test_a_flood_is_not_read_as_a_whole(written: tuple[BinaryIO, LogReader]) -> None:
    file, reader = written
    file.write(b"first\n" * 20_000)
    reader.read()
    file.write(b"password=" + b"x" * (4 * TAIL_BYTES) + b"\nlast\n")
    reader.read()
    log = reader.log
    assert (log.head[:6], log.tail) == ("first\n", "last\n")
    assert log.num_bytes == 120_000 + 9 + 4 * TAIL_BYTES + 6
