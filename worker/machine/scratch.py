"""A folder for one piece of work, removed afterwards; also by the next worker of this machine when
its owner was killed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.base.private_dir import private_folder

LOCK_NAME = ".lock"


@contextmanager
def scratch(root: Path, name: str) -> Iterator[Path]:
    private_folder(root)
    (root / LOCK_NAME).touch()
    folder = root / name
    with locked(root / LOCK_NAME, fcntl.LOCK_EX):
        _sweep(root)
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_all(work_dir: Path) -> None:
    """Remove what killed workers left in the scratch folders of this machine."""
    for guard in work_dir.glob(f"*/{LOCK_NAME}"):
        with locked(guard, fcntl.LOCK_EX):
            _sweep(guard.parent)


def _sweep(root: Path) -> None:
    for folder in root.iterdir():
        if folder.name != LOCK_NAME:
            in_use_or_gone = suppress(BlockingIOError, FileNotFoundError)
            with in_use_or_gone, locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """The kernel drops the lock when its holder dies."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
