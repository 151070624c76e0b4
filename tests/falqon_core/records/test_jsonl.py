import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import MAX_LINE_BYTES, TooManyValues, lines_of, parse_line

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


@pytest.mark.parametrize(
    ("value", "is_refused"),
    [
        ([[1, -2, 3] * 50] * 4, True),
        ([[1, 2, 3] * 50] * 4, False),
        ([[1]] * 9, False),
        ([[1]] * 20, True),
        ([["[1, 2]"] * 5, [1] * 50, "[", []], False),
        ([[1.5] * 5, [True] * 5, [1] * 50], True),
        ({"a": [1] * 50, "b": ["1"] * 9}, True),
    ],
)
def test_a_reader_may_let_a_list_of_token_ids_count_as_one_value(
    value: Any, is_refused: bool
) -> None:
    text = json.dumps(value)
    with pytest.raises(TooManyValues):
        parse_line(text, 1, 8)
    if is_refused:
        with pytest.raises(TooManyValues):
            parse_line(text, 1, 10, counts_token_ids=False)
    else:
        assert parse_line(text, 1, 10, counts_token_ids=False) == value
