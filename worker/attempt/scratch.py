"""A folder for one attempt, removed afterwards; also by the next worker of this machine when its owner was killed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.private_dir import private_folder

GUARD = ".lock"


@contextmanager
def scratch(root: Path, name: str) -> Iterator[Path]:
    private_folder(root)
    (root / GUARD).touch()
    folder = root / name
    with _lock(root / GUARD, fcntl.LOCK_EX):
        _sweep(root)
        folder.mkdir()
        mine = os.open(folder, os.O_RDONLY)
        fcntl.flock(mine, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(mine)


def _sweep(root: Path) -> None:
    for folder in root.iterdir():
        if folder.name != GUARD:
            with suppress(BlockingIOError), _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(path: Path, how: int) -> Iterator[None]:
    """The kernel drops the lock when its holder dies."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
