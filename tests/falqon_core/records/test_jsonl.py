import resource
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import MAX_LINE_BYTES, lines_of

MIB = 2**20


@given(st.binary(), st.lists(st.integers(min_value=1, max_value=8), min_size=1))
def test_lines_do_not_depend_on_chunks(content: bytes, sizes: list[int]) -> None:
    content = content.replace(b"0", b"\n")
    expected = content.split(b"\n")

    assert list(lines_of(_chunks(content, sizes))) == (expected if expected[-1] else expected[:-1])


def _chunks(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    position = turn = 0
    while position < len(content):
        size = sizes[turn % len(sizes)]
        yield content[position : position + size]
        position = position + size
        turn = turn + 1


def test_a_line_of_any_length_is_one_error_in_flat_memory() -> None:
    def hostile() -> Iterator[bytes]:
        yield b'{"text": "a"}\n{"text": "'
        for _ in range(300):
            yield b"x" * MIB
        yield b'"}\n{"text": "b"}\n'

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = check_file(lines_of(hostile()))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    assert (report.num_records, report.num_errors) == (2, 1)
    assert (report.errors[0].line, report.errors[0].message) == (
        2,
        f"the line is too long; the limit is {MAX_LINE_BYTES} bytes",
    )
    assert grown < 60
