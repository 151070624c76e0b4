"""Whether what a job is going to write fits, asked before hours are spent on it. Others write too,
so a disk may still fill up later.
"""

import errno
import os
import shutil
from collections import defaultdict
from pathlib import Path

from app.catalogue import repository as catalogue
from app.database import Database
from app.jobs import internal_repository
from app.jobs.space import MARGIN, excess, expected_bytes
from app.models import Job
from worker.context import WorkerContext


class NeverFits(Exception):
    """Larger than the whole disk, so making space cannot help; with a sentence for the user."""


def check_space(context: WorkerContext, job: Job) -> None:
    """Check a training whose inputs are here. Raises as `require_space`."""
    num_bytes = _expected_bytes(context.database, job)
    by_disk: defaultdict[int, int] = defaultdict(int)
    for folder in filter(None, (context.settings.work_dir, context.storage.local_root)):
        folder.mkdir(parents=True, exist_ok=True)
        disk = os.stat(folder).st_dev
        by_disk[disk] += num_bytes
        require_space(folder, by_disk[disk])


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise `NeverFits`, or an `OSError` that says ENOSPC, where so much does not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    if (reason := excess(folder, num_bytes, "this worker")) is not None:
        raise NeverFits(f"{reason[0].upper()}{reason[1:]}.")
    needed = int(MARGIN * num_bytes)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)}: about {needed} bytes are needed, {free} are free",
            str(folder),
        )


def _expected_bytes(database: Database, job: Job) -> int:
    with database.read() as session:
        model = catalogue.get(session, job.base_model_id)
        largest = internal_repository.max_checkpoint_bytes(session, job.id)
    assert model is not None, "its row outlives its deletion"
    assert job.recipe is not None, "a job has its recipe before it is queued"
    return expected_bytes(model.config, job.recipe, largest)
