"""Models that nobody uses make room, on a disk whose size the tests choose."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from app.jobs.space import DISK_MARGIN, expected_bytes
from app.models import JobStatus
from tests.support.api import TINY_CONFIG
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer
from worker.models.disk_space import require_space
from worker.models.model_cache import ModelCache
from worker.models.model_folders import hold, models_root

MODEL_BYTES = 1000
TOTAL_BYTES = 10**12  # nothing is too large for ever
LeaveFree = Callable[[int], None]


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def leave_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LeaveFree:
    """Have so many bytes free beside what stands below the folder of the test now."""

    def used_bytes() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    def leave_free(num_bytes: int) -> None:
        size = used_bytes() + num_bytes
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _: Disk(TOTAL_BYTES, used_bytes(), size - used_bytes())
        )

    return leave_free


def add_model(work_dir: Path, name: str, used_at: int) -> Path:
    folder = models_root(work_dir) / name
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(MODEL_BYTES))
    os.utime(folder, (used_at, used_at))
    return folder


def use(folder: Path) -> int:
    descriptor = hold(folder)
    assert descriptor is not None
    return descriptor


def names(work_dir: Path) -> list[str]:
    return sorted(path.name for path in models_root(work_dir).iterdir())


def test_the_least_recently_used_goes_first_and_no_more_than_is_needed(
    tmp_path: Path, leave_free: LeaveFree
) -> None:
    for used_at, name in enumerate(("oldest", "middle", "newest")):
        add_model(tmp_path, name, used_at)
    leave_free(500)
    require_space(tmp_path, tmp_path, 400)
    assert names(tmp_path) == ["middle", "newest", "oldest"]
    require_space(tmp_path, tmp_path, 1000)
    assert names(tmp_path) == ["middle", "newest"]
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".lock"]


def test_models_in_use_stay_and_recently_used_models_go_last(
    tmp_path: Path, leave_free: LeaveFree
) -> None:
    busy = add_model(tmp_path, "busy", 1)
    recent = add_model(tmp_path, "recent", 1)
    unused = add_model(tmp_path, "unused", 1)
    descriptor = use(busy)
    os.close(use(recent))
    leave_free(0)
    require_space(tmp_path, tmp_path, 500)
    assert names(tmp_path) == ["busy", "recent"]
    with pytest.raises(OSError, match="No space left"):
        require_space(tmp_path, tmp_path, 5000)
    assert names(tmp_path) == ["busy"]
    os.close(descriptor)
    assert hold(unused) is None


def test_a_job_whose_disk_is_full_of_earlier_models_is_trained(
    embedded_backend: Backend, tmp_path: Path, leave_free: LeaveFree
) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(steps=10))
    recipe = backend.job(job_id).recipe
    assert recipe is not None
    needed = int(DISK_MARGIN * expected_bytes(TINY_CONFIG, recipe))
    earlier = add_model(backend.settings.work_dir, "earlier", 1)
    with (earlier / "weights").open("ab") as file:
        file.truncate(2 * needed)
    leave_free(needed // 2)
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert not earlier.exists()


def test_a_model_stays_until_its_cache_is_closed(
    embedded_backend: Backend, leave_free: LeaveFree
) -> None:
    work_dir = embedded_backend.settings.work_dir
    leave_free(10**6)
    with ModelCache.of(embedded_backend.context(), lambda: None) as cache:
        folder = cache.model(BASE_MODEL)
        leave_free(0)
        with pytest.raises(OSError, match="No space left"):
            require_space(work_dir, work_dir, MODEL_BYTES)
        assert (folder / "model.safetensors").exists()
    with pytest.raises(OSError, match="No space left"):
        require_space(work_dir, work_dir, MODEL_BYTES)
    assert not folder.exists()
    leave_free(10**6)
    with ModelCache.of(embedded_backend.context(), lambda: None) as cache:
        assert (cache.model(BASE_MODEL) / "model.safetensors").exists(), "it is brought again"
