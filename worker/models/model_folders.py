"""The folders of models on this machine. The user of one holds its lock; unused ones
make room on a disk that is full, the least recently used first.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

import structlog

from app.base.ids import new_id
from worker.machine.scratch import locked, scratch

log = structlog.get_logger()


def models_root(work_dir: Path) -> Path:
    return work_dir / "models"


def staging_root(work_dir: Path) -> Path:
    """Return the folder in which a model is filled, and into which it is moved for removal."""
    return work_dir / "staging"


def hold(folder: Path) -> int | None:
    """Keep a folder from being removed until the descriptor that is returned is closed; None where
    it is not there.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        os.utime(folder)  # The least recently used folder is known by its time.
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except FileNotFoundError:
        pass  # removed before the lock was ours
    os.close(descriptor)
    return None


def make_room(work_dir: Path, folder: Path, num_bytes: int) -> None:
    """Remove unused models until so much is free on the disk of `folder`, or none is
    left. Does nothing where models are on another disk.
    """
    root = models_root(work_dir)
    if not root.is_dir() or root.stat().st_dev != folder.stat().st_dev:
        return
    for model in sorted(root.iterdir(), key=_last_use):
        if shutil.disk_usage(root).free >= num_bytes:
            return
        _remove_unused(work_dir, model)


def _last_use(model: Path) -> int:
    """Return the time at which a folder was last held, in ns; 0 where another worker has removed
    it."""
    try:
        return model.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _remove_unused(work_dir: Path, model: Path) -> None:
    in_use_or_gone = suppress(BlockingIOError, FileNotFoundError)
    with in_use_or_gone, locked(model, fcntl.LOCK_EX | fcntl.LOCK_NB):
        # Moved first, so that it is never there in part.
        with scratch(staging_root(work_dir), new_id("")) as folder:
            os.rename(model, folder / "model")
        log.info("model removed to make room on the disk", folder=model.name)
