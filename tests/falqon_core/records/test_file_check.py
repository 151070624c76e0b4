import bz2
import gzip
import lzma
import pickle
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.contract.recipe_options import MAX_BAD_RECORD_FRACTION
from falqon_core.records import file_check
from falqon_core.records.file_check import (
    MAX_BAD_RECORDS,
    MAX_ERRORS,
    MixedShapes,
    check_file,
    read_records,
)
from falqon_core.records.jsonl import BadRecord, lines_of
from falqon_core.records.line_parser import Parsed
from falqon_core.records.shapes import TextRecord
from tests.falqon_core.records.test_parse_record import CHAT, line


def test_a_byte_order_mark_may_stand_on_a_line_of_its_own() -> None:
    report = check_file([b"\xef\xbb\xbf", b'{"text": "a"}', b"", b'{"text": "b"}'])
    assert (report.num_records, report.num_errors) == (2, 0)
    assert check_file([b"\xef\xbb\xbf"]).errors[0].message == "the file is empty"
    blank = [b"\xef\xbb\xbf  \r", b"\r"]
    assert check_file(blank).errors[0].message == "the file holds nothing but blanks"
    assert "BOM" in check_file([b"\xef\xbb\xbf", b'\xef\xbb\xbf{"text": "a"}']).errors[0].message
    assert "BOM" in check_file([b'\xef\xbb\xbf\xef\xbb\xbf{"text": "a"}']).errors[0].message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_a_record_or_a_fault(value: Any) -> None:
    for raw in (
        line(value),
        line({"messages": value}),
        line({"text": value}),
        line({"prompt": "a", "completion": value}),
    ):
        report = check_file([raw])
        assert (report.num_records, report.num_errors) in ((1, 0), (0, 1))
        assert all(error.column >= 1 for error in report.errors)


@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b"  \n"])),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)
def test_line_ends_and_blank_lines_do_not_matter(gaps: list[bytes], text: str) -> None:
    raw = b" \t" + line({"text": text})
    lines = [part for gap in [*gaps, b""] for part in (raw + b"\r\n", gap) if part]

    report = check_file(lines)

    assert report.ok
    assert report.num_records == len(gaps) + 1
    assert report.num_characters == len(text) * (len(gaps) + 1)
    records = [parsed for _, parsed in read_records(lines)]
    assert records == [Parsed(TextRecord(text=text), None, {"text": text})] * (len(gaps) + 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "the file is empty"),
        ([b"\n", b" \r\n"], "the file holds nothing but blanks"),
        ([b" " * 2**20], "the file holds nothing but blanks"),
    ],
)
def test_a_file_without_a_record_is_at_fault(lines: list[bytes], message: str) -> None:
    report = check_file(lines)

    assert not report.ok
    assert (report.errors[0].line, report.errors[0].column) == (1, 1)
    assert report.errors[0].code == "empty_file"
    assert f"{message}; write one JSON object a line" in report.summary()


def test_a_mixed_file_is_refused_whatever_the_share_and_names_its_faults_in_order() -> None:
    report = check_file([line(CHAT), b"{"] + [line(CHAT)] * 100 + [line({"text": "a"})])

    assert report.bad_fraction < MAX_BAD_RECORD_FRACTION
    assert not report.ok
    assert report.summary().startswith("line 2, column 2: ")
    assert report.summary().endswith(
        "(and 1 more); line 103 is the first of another shape, and a file keeps to one"
    )


def test_all_faults_are_counted_and_the_first_are_listed() -> None:
    report = check_file([b"{"] * (MAX_ERRORS + 10) + [line(CHAT)])

    assert report.num_errors == MAX_ERRORS + 10
    assert [error.line for error in report.errors] == list(range(1, MAX_ERRORS + 1))
    assert report.num_records == 1


def test_a_file_with_few_bad_lines_is_usable_where_they_are_tolerated() -> None:
    report = check_file([line(CHAT)] * 97 + [b"{"] * 3)

    assert report.ok
    assert report.bad_fraction == 0.03
    assert report.too_bad(0.03) is None
    refusal = report.too_bad(0.02)
    assert refusal is not None
    assert "3 of 100 records are bad (3.00%), more than max_bad_record_fraction = 0.02" in refusal
    assert "The first: line 98, column 2: not JSON" in refusal
    assert report.summary().startswith("97 records (messages); bad: line 98, column 2")
    assert not check_file([line(CHAT)] * 8 + [b"{"]).ok


def test_the_check_of_something_else_than_records_ends_early() -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        yield from [line(CHAT)] * (MAX_BAD_RECORDS // 100)
        while True:
            read += 1
            yield b"{"

    report = check_file(endless())

    assert (report.ok, report.num_errors, read) == (False, MAX_BAD_RECORDS, MAX_BAD_RECORDS)
    assert report.summary().endswith(
        f"the check was given up at line {MAX_BAD_RECORDS + MAX_BAD_RECORDS // 100}"
    )


@pytest.mark.parametrize("filler", [b"\n", line(CHAT)])
def test_a_file_has_a_limit_of_lines(filler: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_check, "MAX_LINES", 100)
    assert check_file([line(CHAT), *[filler] * 99]).ok
    report = check_file(chain([line(CHAT)], repeat(filler)))
    assert (report.ok, report.num_errors, report.given_up_at_line) == (False, 1, 101)
    assert report.summary().startswith(
        "line 101, column 1: the file has more than 100 lines; split it"
    )


def test_every_line_is_read_whatever_is_wrong_with_others() -> None:
    outcomes = dict(read_records([line(CHAT), b"\n", b"{", line({"text": "a"}), line(CHAT)]))

    assert [type(outcome) for outcome in outcomes.values()] == [
        Parsed,
        BadRecord,
        MixedShapes,
        Parsed,
    ]
    assert list(outcomes) == [1, 3, 4, 5]


ZIP = b"PK\x03\x04\x14\x00\x00\n\x08\x00"


@pytest.mark.parametrize(
    ("content", "name", "advice"),
    [
        (ZIP + b"rows.jsonl", "a zip archive", "unpack it"),
        (b"PK\x03\x04\x14\x00[Content_Types].xml", "an Excel workbook", "save the sheet as CSV"),
        (gzip.compress(b"{}", mtime=0), "a gzip file", "unpack it"),
        (bz2.compress(b"{}"), "a bzip2 file", "pack it with gzip"),
        (lzma.compress(b"{}"), "an xz file", "pack it with gzip"),
        (pickle.dumps([{"text": "a"}]), "a Python pickle", "JSON lines"),
        (b"rows.jsonl".ljust(257, b"\0") + b"ustar\x0000", "a tar archive", "unpack it"),
        (b"%PDF-1.7\n", "a PDF", "JSON lines"),
    ],
)
def test_a_file_that_is_no_text_is_named_by_its_first_bytes(
    content: bytes, name: str, advice: str
) -> None:
    report = check_file(lines_of([content + b"\n\xff\n\xff"]))

    assert report.num_errors == 1, "nothing is said of what follows"
    (error,) = report.errors
    assert (error.line, error.code) == (1, "binary_file")
    assert name in error.message
    assert advice in error.advice
