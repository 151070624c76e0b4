"""Check that a job's output fits on the disk, before hours are spent on it. Others write too, so a
disk may still fill up later."""

import errno
import os
import shutil
from collections import defaultdict
from pathlib import Path

from app.attempts.values import Inputs
from app.jobs.space import DISK_MARGIN, describe_shortage, expected_bytes
from app.models import Job
from worker.models.model_folders import make_room


class NeverFits(Exception):
    """Larger than the whole disk, so making space cannot help; with a sentence for the user."""


def check_space(job: Job, inputs: Inputs, work_dir: Path, *folders: Path | None) -> None:
    """Check a training whose inputs are here, and which writes to these folders. Raises as
    `require_space`.
    """
    assert job.recipe is not None, "a job has its recipe before it is queued"
    largest = max((checkpoint.bytes for checkpoint in inputs.checkpoints), default=None)
    num_bytes = expected_bytes(inputs.base_config, job.recipe, largest)
    by_disk: defaultdict[int, int] = defaultdict(int)
    for folder in filter(None, folders):
        folder.mkdir(parents=True, exist_ok=True)
        disk = os.stat(folder).st_dev
        by_disk[disk] += num_bytes
        require_space(work_dir, folder, by_disk[disk])


def require_space(work_dir: Path, folder: Path, num_bytes: int) -> None:
    """Raise `NeverFits`, or an `OSError` that says ENOSPC, where so much does not fit, also without
    unused models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (reason := describe_shortage(folder, num_bytes, "this worker")) is not None:
        raise NeverFits(f"{reason[0].upper()}{reason[1:]}.")
    needed = int(DISK_MARGIN * num_bytes)
    make_room(work_dir, folder, needed)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)}: about {needed} bytes are needed, {free} are free",
            str(folder),
        )
