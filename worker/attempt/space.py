"""Whether what a job is going to write fits, asked before hours are spent on it. Others write too, so a disk may still fill up later."""

import errno
import os
import shutil
from collections import defaultdict
from pathlib import Path

from sqlalchemy import func, select

from app.database import Database
from app.jobs.space import MARGIN, excess, expected_bytes
from app.models import Checkpoint, Job, Model
from app.settings import Settings
from app.storage import Storage
from falqon_core.contract.config import Recipe


class NeverFits(Exception):
    """It is larger than the whole disk, so making space cannot help; with a sentence for the user."""


def check_space(database: Database, storage: Storage, settings: Settings, job: Job) -> None:
    """For a training whose inputs are here. Raises `NeverFits`, or an `OSError` that says ENOSPC."""
    num_bytes = _expected_bytes(database, job)
    by_disk: defaultdict[int, int] = defaultdict(int)
    for folder in filter(None, (settings.work_dir, storage.local_root)):
        folder.mkdir(parents=True, exist_ok=True)
        disk = os.stat(folder).st_dev
        by_disk[disk] += num_bytes
        require_space(folder, by_disk[disk])


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises `NeverFits`, or an `OSError` that says ENOSPC."""
    folder.mkdir(parents=True, exist_ok=True)
    if (reason := excess(folder, num_bytes, "this worker")) is not None:
        raise NeverFits(f"{reason[0].upper()}{reason[1:]}.")
    needed, free = int(MARGIN * num_bytes), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: about {needed} bytes are needed, {free} are free", str(folder))


def _expected_bytes(database: Database, job: Job) -> int:
    with database.read() as session:
        model = session.get_one(Model, job.base_model_id)
        largest = session.scalar(select(func.max(Checkpoint.bytes)).where(Checkpoint.job_id == job.id))
    return expected_bytes(model.config, Recipe.model_validate(job.recipe), largest)
