"""Tables become JSON lines through the program that a worker starts, called in this process."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from falqon_core.contract.errors import ColumnsUnknown, SourceTooLarge, SourceUnreadable
from falqon_core.contract.messages import ExitCode, Failed, RecordsWritten, decode
from falqon_core.contract.sources import SourceFormat, format_of
from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import lines_of_file
from falqon_core.records.line_parser import parse_record
from falqon_core.tables import json_lines
from falqon_core.tables.__main__ import Source, main, write_table
from falqon_core.tables.packed import unpack

RENAMED = {"prompt": "question", "completion": "answer"}
TURNS = [{"role": "user", "content": "two?"}, {"role": "assistant", "content": "four"}]


def rows_of(
    folder: Path, content: bytes, format: SourceFormat, mapping: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    table = folder / "table"
    table.write_bytes(content)
    write_table(Source(table, format, mapping or {}), folder / "lines", 10**6, lambda _: None)
    return [json.loads(line) for line in (folder / "lines").read_bytes().splitlines()]


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("rows.jsonl", b'{"text": "a"}', "jsonl"),
        ("rows.json", b'{"text": "a"}', "jsonl"),
        ("rows.json", b"\xef\xbb\xbf \n[{}]", "json"),
        ("rows.jsonl", b"[\n {}]", "json"),
        ("rows.jsonl", b"[1]\n[2]", "jsonl"),
        ("rows.jsonl", b' {"data": [{"text": "a"}]}', "json"),
        ("rows.jsonl", b'{"data": {"text": "a"}}', "jsonl"),
        ("rows.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0), "jsonl"),
        ("rows.json", gzip.compress(b"[{}]", mtime=0), "json"),
        ("rows.csv.GZ", gzip.compress(b"a,b", mtime=0), "csv"),
        ("rows.parquet.gz", b"\x1f\x8b\x08", "parquet"),
        ("rows.CSV", b"a,b", "csv"),
        ("rows.csv", b'{"text": "a"}', "jsonl"),
        ("rows", b"PAR1\x15", "parquet"),
        ("rows.parquet", b"", "parquet"),
    ],
)
def test_format_is_known_by_name_and_first_bytes(name: str, head: bytes, format: str) -> None:
    assert format_of(name, head) == format


@pytest.mark.parametrize(
    "content",
    [
        b'question,answer\r\n"a, ""b""\nc",42\r\n\r\nd,\r\n',
        '\ufeffquestion;answer;n\n"a, ""b""\nc";42;1\nd;;2\n'.encode(),
        b'answer\tquestion\n42\t"a, ""b""\nc"\n\td\n',
    ],
)
def test_csv_cells_are_texts_by_the_columns_of_the_mapping(tmp_path: Path, content: bytes) -> None:
    assert rows_of(tmp_path, content, "csv", RENAMED) == [
        {"prompt": 'a, "b"\nc', "completion": "42"},
        {"prompt": "d", "completion": ""},
    ]


def test_a_cell_of_json_is_a_list(tmp_path: Path) -> None:
    cell = json.dumps(TURNS).replace('"', '""')
    content = f'messages,tools\n"{cell}",\n'.encode()
    assert rows_of(tmp_path, content, "csv") == [{"messages": TURNS, "tools": None}]


def test_parquet_is_read_without_the_nulls_of_its_structs(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    content = parquet({"messages": [[TURNS[0], answer], TURNS], "image": [b"\xff", None]})
    bare = {key: value for key, value in answer.items() if value}
    assert rows_of(tmp_path, content, "parquet") == [
        {"messages": [TURNS[0], bare]},
        {"messages": TURNS},
    ]
    report = check_file(lines_of_file(tmp_path / "lines"))
    assert (report.num_records, report.num_errors) == (2, 0)


def test_a_table_means_what_its_lines_would(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "two?", "weight": None},
        {"from": "gpt", "value": "four", "weight": 0},
        {"from": "gpt", "value": "4", "weight": 1},
    ]
    rows_of(tmp_path, parquet({"conversations": [turns], "system": ["Add."]}), "parquet")
    (line,) = (tmp_path / "lines").read_bytes().splitlines()
    assert parse_record(line).model_dump(exclude_none=True) == {
        "messages": [
            {"role": "system", "content": "Add."},
            TURNS[0],
            TURNS[1] | {"weight": 0},
            TURNS[1] | {"content": "4", "weight": 1},
        ]
    }
    content = b"prompt,completion,label\ntwo?,five,False\n"
    rows_of(tmp_path, content, "csv")
    report = check_file(lines_of_file(tmp_path / "lines"))
    assert [error.code for error in report.errors] == ["kto_not_supported"]


def test_a_json_list_is_copied_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "CHUNK_BYTES", 7)
    rows = [{"prompt": "ä[{\n\\", "completion": "x" * size} for size in range(40)]
    for indent in (None, 2):
        content = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
        assert rows_of(tmp_path, content, "json") == rows
    rows_of(tmp_path, b'[{"text": "a", "text": "b"}, {"text": 1.50}]\n', "json")
    lines = (tmp_path / "lines").read_bytes()
    assert lines == b'{"text": "a", "text": "b"}\n{"text": 1.50}\n'
    assert rows_of(tmp_path, b" [ ] ", "json") == []


def test_a_list_in_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "CHUNK_BYTES", 1)
    content = b' { "data" : [{"text": "a"}, {"text": "b"}], "n": 123, "more": {"data": [1]}}\n'
    assert rows_of(tmp_path, content, "json") == [{"text": "a"}, {"text": "b"}]


def test_gzip_is_unpacked_whole_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    members = [b'{"text": "a"}\n', b'{"text": "b"}\n' * 10_000]
    path.write_bytes(b"".join(map(gzip.compress, members)))
    assert unpack(path, 10**6).read_bytes() == b"".join(members)

    with pytest.raises(SourceTooLarge, match="unpacked it has more than 100000 bytes"):
        unpack(path, 10**5)
    free = shutil.disk_usage(tmp_path)._replace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match="No space left"):
        unpack(path, 10**6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"a" * 1000, mtime=0)[:-9], "ended before the end-of-stream marker"),
        (gzip.compress(b"a", mtime=0) + b"rest", "Not a gzipped file"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 40, "invalid"),
        (gzip.compress(b"a", mtime=0)[:-8] + bytes(8), "CRC check failed"),
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(SourceUnreadable, match=reason):
        unpack(path, 10**6)


def test_a_gzip_bomb_takes_neither_memory_nor_disk(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    (tmp_path / "table").write_bytes(
        b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    )
    command = [sys.executable, "-m", "falqon_core.tables", str(tmp_path / "table")]
    command += ["--format", "jsonl", "--output", str(tmp_path / "lines")]
    command += ["--max-bytes", str(2**24)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    failure = decode(ended.stderr.splitlines()[-1])
    assert isinstance(failure, Failed)
    assert (ended.returncode, failure.code) == (ExitCode.USER_ERROR, "source_too_large")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2**25


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_fields_are_renamed(tmp_path: Path, format: SourceFormat) -> None:
    rows = [{"question": "a", "answer": "b", "id": 1}, {"question": "c"}]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    content = json.dumps(rows).encode() if format == "json" else lines
    assert rows_of(tmp_path, content, format, RENAMED) == [
        {"prompt": "a", "completion": "b"},
        {"prompt": "c"},
    ]


def test_a_line_that_is_no_object_is_left_for_the_check(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_bytes(b'{"q": "a"}\n[1]\n{"q": "a", "q": "b"}\n\n{"q": "c"}')
    write_table(Source(table, "jsonl", {"text": "q"}), tmp_path / "lines", 10**6, lambda _: None)
    assert (tmp_path / "lines").read_bytes() == (
        b'{"text":"a"}\n[1]\n{"q": "a", "q": "b"}\n\n{"text":"c"}\n'
    )


@pytest.mark.parametrize(
    ("content", "format", "reason"),
    [
        (
            b"prompt,completion\na,b\nc\n",
            "csv",
            "line 3: the row has 1 cells, and the header has 2",
        ),
        (b'prompt,completion\na,"b', "csv", "line 2: unexpected end of data"),
        (b"prompt,prompt\na,b\n", "csv", "two columns have the name 'prompt'"),
        (b"prompt,completion\na,\xff\n", "csv", "byte 0xff is not UTF-8"),
        (b'[{"text": "a"} {"text": "b"}]', "json", "',' or ']' is missing after item 1"),
        (b'[{"text": "a"}, 7]', "json", "item 2 is no object in braces"),
        (b'[{"text": "a"}, {"text"]', "json", "item 2 is not JSON, or longer than 8388608 bytes"),
        (b'[{"text": "a"}', "json", "',' or ']' is missing after item 1"),
        (b'[{"text": "a"}]\n[]', "json", "text follows the end of the list"),
        (b'[{"text": ' + b"[" * 9999, "json", "item 1 is nested too deeply"),
        (b'[{"text": "\xff"}]', "json", "byte 0xff is not UTF-8"),
        (b'{"data": [{"text": "a"}]', "json", "',' or '}' is missing behind the list"),
        (b'{"data": [{"text": "a"}], 5: 1}', "json", "the name of a field is missing"),
        (b'{"data": [{"text": "a"}], "n" 1}', "json", "':' is missing after"),
        (b'{"data": [{"text": "a"}]}\n{"data": []}', "json", "text follows the end"),
        (b"PK\x03\x04\x14\x00[Content_Types].xml", "csv", "an Excel workbook"),
        (b"PAR1, it says", "parquet", "the Parquet file cannot be read"),
        (parquet({"text": ["a" * 999] * 99})[:-50], "parquet", "the Parquet file cannot be read"),
    ],
)
def test_an_unreadable_table_is_refused(
    tmp_path: Path, content: bytes, format: SourceFormat, reason: str
) -> None:
    with pytest.raises(SourceUnreadable) as refusal:
        rows_of(tmp_path, content, format)
    assert reason in str(refusal.value)


def test_bytes_of_parquet_are_text(tmp_path: Path) -> None:
    texts = [[{"role": b"user", "content": "zwei für".encode()}, {"role": b"assistant"}], None]
    columns = {"messages": texts, "tools": [b'[{"type": "function"}]', b"\xff"]}
    table = tmp_path / "table"
    table.write_bytes(parquet(columns))
    write_table(Source(table, "parquet", {}), tmp_path / "lines", 10**6, lambda _: None)
    first, second = (tmp_path / "lines").read_bytes().splitlines()
    assert json.loads(first) == {
        "messages": [{"role": "user", "content": "zwei für"}, {"role": "assistant"}],
        "tools": [{"type": "function"}],
    }
    (error,) = check_file([second]).errors
    assert "is not UTF-8" in error.message


def test_a_refusal_names_the_columns(tmp_path: Path) -> None:
    with pytest.raises(ColumnsUnknown, match=r"has the columns 'question', 'answer'; say which"):
        rows_of(tmp_path, b"question,answer\n", "csv")
    with pytest.raises(ColumnsUnknown, match=r"no column 'question'; the columns are 'q', 'a'"):
        rows_of(tmp_path, parquet({"q": ["a"], "a": ["b"]}), "parquet", RENAMED)
    with pytest.raises(ColumnsUnknown, match=r"no column 'question'; the columns are 'text'"):
        rows_of(tmp_path, b'{"text": "a"}\n', "jsonl", RENAMED)


def test_the_program_reports_progress_and_refuses_what_grows_too_large(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_bytes(parquet({"text": ["a" * 100] * 3000, "score": [1.5] * 3000}))
    sent: list[Any] = []
    write_table(Source(table, "parquet", {}), tmp_path / "lines", 10**6, sent.append)
    assert isinstance(sent[0], RecordsWritten)
    assert (sent[0].num_records, sent[-1].num_records) == (5, 3000)
    assert (sent[-1].fraction, sent[-1].ignored_columns) == (1.0, ["score"])
    with pytest.raises(SourceTooLarge, match="more than 1000 bytes"):
        write_table(Source(table, "parquet", {}), tmp_path / "lines", 1000, sent.append)


def test_a_failure_is_a_message_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falqon_core.tables.__main__.limit_resources", lambda _: None)
    table = tmp_path / "table"
    table.write_bytes(b"a,b\n")
    reading, writing = os.pipe()
    arguments = [str(table), "--format", "csv", "--output", str(tmp_path / "lines")]
    assert main([*arguments, "--message-fd", str(writing)]) == ExitCode.USER_ERROR
    os.close(writing)
    with os.fdopen(reading, "rb") as messages:
        written, failure = map(decode, messages.read().splitlines())
    assert written == RecordsWritten(num_records=0, fraction=0.0, ignored_columns=["a", "b"])
    assert isinstance(failure, Failed)
    assert (failure.code, failure.param) == ("unknown_columns", "mapping")
