"""Formats that records are read from besides JSON lines, and the columns that are their fields."""

import re
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

SourceFormat = Literal["parquet", "csv", "json", "jsonl"]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# The column of each field: {"prompt": "question", "completion": "answer"}.
ColumnMapping = Annotated[dict[ColumnName, ColumnName], Field(min_length=1, max_length=32)]

HEAD_BYTES = 512  # Bytes of a file that tell its format.
PARQUET_MAGIC = b"PAR1"
GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
_OF_GZIP = re.compile(r"\.gz(?:ip)?$", re.IGNORECASE)
_LIST = re.compile(rb"\[\s*\{")
_LIST_IN_DATA = re.compile(rb'\{\s*"data"\s*:\s*\[')
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257


@dataclass(frozen=True, slots=True)
class BinaryFormat:
    """A format that is no text and is not read, and what to do with it."""

    name: str
    advice: str


_WORKBOOK = BinaryFormat("an Excel workbook or another Office file", "save the sheet as CSV")
_PACKED = "unpack it, or pack it with gzip, and upload one file"
_UNPACKED = "unpack it, and upload the files that it holds"
_BINARY_FORMATS: tuple[tuple[bytes, BinaryFormat], ...] = (
    (b"PK\x03\x04", BinaryFormat("a zip archive", _UNPACKED)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _WORKBOOK),
    (GZIP_MAGIC, BinaryFormat("a gzip file", "unpack it, and upload the file that it holds")),
    (b"BZh", BinaryFormat("a bzip2 file", _PACKED)),
    (b"\xfd7zXZ\x00", BinaryFormat("an xz file", _PACKED)),
    (b"\x28\xb5\x2f\xfd", BinaryFormat("a Zstandard file", _PACKED)),
    (b"7z\xbc\xaf\x27\x1c", BinaryFormat("a 7z archive", _UNPACKED)),
    (b"Rar!\x1a\x07", BinaryFormat("a RAR archive", _UNPACKED)),
    (b"ARROW1", BinaryFormat("an Arrow file", "write it as Parquet")),
    (b"\xff\xff\xff\xff", BinaryFormat("an Arrow stream", "write it as Parquet")),
    (b"\x89HDF\r\n", BinaryFormat("an HDF5 file", "write its rows as Parquet or JSON lines")),
    (b"SQLite format 3\x00", BinaryFormat("an SQLite database", "write its rows as CSV")),
    (b"%PDF-", BinaryFormat("a PDF", "write its text as JSON lines")),
    *(
        (
            b"\x80" + bytes([protocol]),
            BinaryFormat(
                "a Python pickle, which can run code and is never opened",
                "write its rows as JSON lines or Parquet",
            ),
        )
        for protocol in range(2, 6)
    ),
)
_MAGICS = tuple(magic for magic, _ in _BINARY_FORMATS)
_OF_OFFICE = (b"[Content_Types].xml", b"_rels/", b"xl/", b"docProps/")


def format_of(name: str, head: bytes) -> SourceFormat:
    """Return the format of a file by its name and its first bytes, packed with gzip or not.

    A list of objects is one document, and so is an object whose first field is a list in `data`;
    any other text holds JSON lines.
    """
    if is_gzip(head):
        name, head = unpacked_name(name), _unpacked_head(head)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet" or head.startswith(PARQUET_MAGIC):
        return "parquet"
    text = head.removeprefix(BOM).lstrip()
    if suffix in (".csv", ".tsv") and not text.startswith(b"{"):
        return "csv"
    if suffix == ".json" and text.startswith(b"["):
        return "json"
    if _LIST.match(text) or _LIST_IN_DATA.match(text):
        return "json"
    return "jsonl"


def is_gzip(head: bytes) -> bool:
    return head.startswith(GZIP_MAGIC)


def unpacked_name(name: str) -> str:
    """Return the name without `.gz`, where something is left then."""
    unpacked = _OF_GZIP.sub("", name)
    return unpacked if unpacked.strip(".") else name


def binary_format(head: bytes) -> BinaryFormat | None:
    """Return the format of a file that is no text, by its first bytes; None for any other file."""
    if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return BinaryFormat("a tar archive", _UNPACKED)
    if not head.startswith(_MAGICS):
        return None
    magic, format = next(each for each in _BINARY_FORMATS if head.startswith(each[0]))
    if magic.startswith(b"PK") and any(name in head[:HEAD_BYTES] for name in _OF_OFFICE):
        return _WORKBOOK
    return format


def _unpacked_head(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""  # the reader says what is wrong
