"""Files packed with gzip, and files that are no text whatever their name says."""

import errno
import gzip
import os
import shutil
import zlib
from pathlib import Path

from falqon_core.contract.errors import SourceTooLarge, SourceUnreadable
from falqon_core.contract.sources import HEAD_BYTES, binary_format, is_gzip
from falqon_core.records.jsonl import CHUNK_BYTES, printable


def unpack(path: Path, max_bytes: int) -> Path:
    """Return the path of a gzip file's unpacked content, next to it; of any other file, its own
    path. Raises `UserError`, and `OSError` where the disk has no room for as much again."""
    with path.open("rb") as packed:
        if not is_gzip(packed.read(HEAD_BYTES)):
            return path
    unpacked = path.with_name(f"{path.name}-unpacked")
    num_bytes = 0
    with gzip.open(path) as file, unpacked.open("wb") as output:
        while chunk := _read_gzip(file):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise SourceTooLarge(f"unpacked it has more than {max_bytes} bytes; split it")
            if shutil.disk_usage(path.parent).free < num_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(unpacked))
            output.write(chunk)
    return unpacked


def _read_gzip(file: gzip.GzipFile) -> bytes:
    try:
        return file.read(CHUNK_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = printable(str(error))
        raise SourceUnreadable(f"the gzip file cannot be read: {reason}") from None


def refuse_binary(path: Path) -> None:
    """Raise `SourceUnreadable` for a file that is no text whatever its name says."""
    with path.open("rb") as file:
        format = binary_format(file.read(HEAD_BYTES))
    if format is not None:
        raise SourceUnreadable(f"this is {format.name}; {format.advice}")
