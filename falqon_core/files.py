"""Files and folders that appear whole or not at all: written beside their place, flushed to disk,
then renamed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGING_SUFFIX = ".partial"


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `output` to write into; on success it takes `output`'s place, on
    any error it is removed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(
        tempfile.mkdtemp(prefix=f".{output.name}.", suffix=STAGING_SUFFIX, dir=output.parent)
    )
    try:
        yield staging
        for path in [*staging.rglob("*"), staging]:
            path.chmod(0o755 if path.is_dir() else 0o644)
            _flush(path)
        if output.exists():
            shutil.rmtree(output)
        staging.rename(output)
        _flush(output.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers(output: Path) -> None:
    """Remove the leftovers beside the folder `output` of a process that was killed while it wrote
    that folder.
    """
    if output.parent.is_dir():
        for path in output.parent.iterdir():
            if path.name.startswith(f".{output.name}.") and path.name.endswith(STAGING_SUFFIX):
                shutil.rmtree(path)


def write_whole(path: Path, content: str) -> None:
    """Replace one text file."""
    staging = path.with_name(f".{path.name}.tmp")
    staging.write_text(content, encoding="utf-8")
    _flush(staging)
    staging.rename(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
