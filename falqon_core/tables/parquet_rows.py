"""Rows of a Parquet file, decoded a few pages at a time however large its row groups are."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from falqon_core.contract.errors import SourceUnreadable
from falqon_core.records.jsonl import printable
from falqon_core.tables.columns import Table, ignored_columns, select_columns

BATCH_BYTES = 8 * 2**20  # Bytes of decoded rows.
MAX_BATCH_ROWS = 1024
BUFFER_BYTES = 2**20  # Bytes of each column.
MAX_COLUMN_DEPTH = 32


@contextmanager
def open_table(path: Path, mapping: Mapping[str, str]) -> Iterator[Table]:
    """Read the columns of the file; its rows are read as they are taken."""
    pa.set_memory_pool(pa.system_memory_pool())  # The system's pool gives its memory back.
    with ExitStack() as opened:
        with _refusals():
            file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
            table = opened.enter_context(file)
            names = table.schema_arrow.names
        columns = select_columns(names, mapping)
        for column in columns.values():
            _check_column(table.schema_arrow, column)
        yield Table(_rows(table, columns), ignored_columns(names, columns))


def _rows(
    table: pq.ParquetFile, columns: Mapping[str, str]
) -> Iterator[tuple[float, dict[str, Any]]]:
    total = table.metadata.num_rows
    names = list(dict.fromkeys(columns.values()))
    batches = table.iter_batches(_batch_rows(table), columns=names, use_threads=False)
    num_rows = 0
    while (cells := _next_cells(batches, columns)) is not None:
        for row in zip(*cells, strict=True):
            num_rows += 1
            yield num_rows / total, dict(zip(columns, row, strict=True))


def _next_cells(
    batches: Iterator[pa.RecordBatch], columns: Mapping[str, str]
) -> list[list[Any]] | None:
    with _refusals():
        batch = next(batches, None)
        if batch is None:
            return None
        return [batch.column(column).to_pylist() for column in columns.values()]


def _batch_rows(table: pq.ParquetFile) -> int:
    """Return the number of rows to decode at once: few where rows are large."""
    metadata = table.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / max(1, largest))))


def _check_column(schema: pa.Schema, name: str) -> None:
    if schema.names.count(name) > 1:
        raise SourceUnreadable(f"two columns have the name '{printable(name)}'")
    kinds = [schema.field(name).type]
    for _ in range(MAX_COLUMN_DEPTH):
        kinds = [kind.field(index).type for kind in kinds for index in range(kind.num_fields)]
        if not kinds:
            return
    raise SourceUnreadable(f"column '{printable(name)}' is nested too deeply")


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the library says of a file into an error for the user."""
    try:
        yield
    except pa.ArrowMemoryError as error:
        raise MemoryError from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = printable(str(error).partition("\n")[0])
        raise SourceUnreadable(f"the Parquet file cannot be read: {reason}") from None
