"""What records are read from besides JSON lines, and which column is which field of a record."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

SourceFormat = Literal["parquet", "csv", "json", "jsonl"]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# the column of each field: {"prompt": "question", "completion": "answer"}
Mapping = Annotated[dict[ColumnName, ColumnName], Field(min_length=1, max_length=32)]

HEAD_BYTES = 512  # of a file, by which its format is known
PARQUET_MAGIC = b"PAR1"
BOM = b"\xef\xbb\xbf"


def format_of(name: str, head: bytes) -> SourceFormat:
    """Return the format of a file by its name and its first bytes.

    A list in a `.json` file is one document; any other `.json` file holds JSON lines.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet" or head.startswith(PARQUET_MAGIC):
        return "parquet"
    first = head.removeprefix(BOM).lstrip()[:1]
    if suffix in (".csv", ".tsv") and first != b"{":
        return "csv"
    if suffix == ".json" and first == b"[":
        return "json"
    return "jsonl"
