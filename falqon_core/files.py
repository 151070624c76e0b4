"""Files and folders that appear whole or not at all: written beside, flushed, then renamed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAGING_SUFFIX = ".partial"


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `output` to write into; on success it takes `output`'s place, on
    any error it is removed. Of a link the place is taken too; what it leads to stays.
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
        if output.is_symlink():
            output.unlink()
        elif output.exists():
            shutil.rmtree(output)
        staging.rename(output)
        _flush(output.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers(output: Path) -> None:
    """Remove what a process that was killed while it wrote the folder `output` left beside it."""
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON; the caller puts the folder in its place."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
