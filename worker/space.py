"""Whether what a job is going to write fits, asked before hours are spent on it. Others write too, so a disk may still fill up later."""

import errno
import os
import shutil
from collections import defaultdict
from pathlib import Path

from sqlalchemy import func, select

from app.database import Database
from app.models import Checkpoint, Job, Model
from app.settings import Settings
from app.storage import Storage
from falqon_core.spec.config import Recipe
from falqon_core.spec.errors import ModelError
from falqon_core.spec.models import ModelDimensions

MARGIN = 1.1


def check_space(database: Database, storage: Storage, settings: Settings, job: Job) -> None:
    """For a training whose inputs are here. Raises an `OSError` that says ENOSPC."""
    num_bytes = _expected_bytes(database, job)
    by_disk: defaultdict[int, int] = defaultdict(int)
    for folder in filter(None, (settings.work_dir, storage.local_root)):
        folder.mkdir(parents=True, exist_ok=True)
        disk = os.stat(folder).st_dev
        by_disk[disk] += num_bytes
        require_space(folder, by_disk[disk])


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises an `OSError` that says ENOSPC."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(MARGIN * num_bytes), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: about {needed} bytes are needed, {free} are free", str(folder))


def _expected_bytes(database: Database, job: Job) -> int:
    """Of the checkpoints that stand at once, one of them unfinished, and of the model."""
    with database.read() as session:
        model = session.get_one(Model, job.base_model_id)
        largest = session.scalar(select(func.max(Checkpoint.bytes)).where(Checkpoint.job_id == job.id))
    recipe = Recipe.model_validate(job.recipe)
    try:
        dimensions = ModelDimensions.from_config(model.config)
    except ModelError:  # the trainer says so better
        return 0
    a, b = dimensions.num_adapter_parameters(recipe.rank)
    checkpoint = largest or 2 * a + 12 * b  # A in bf16; B and its two moments in fp32
    result = dimensions.num_linear_parameters + 2 * dimensions.num_embedding_parameters  # e4m3 and bf16
    return (recipe.keep_checkpoints + 1) * checkpoint + result
