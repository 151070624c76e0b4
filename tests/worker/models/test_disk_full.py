"""A disk that fills up at any write of an attempt pauses the job, and costs nothing of what was
there before.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from app.base.storage.keys import trainer_log
from app.jobs import transitions
from app.jobs.space import DISK_MARGIN, expected_bytes
from app.models import DEFAULT_PROJECT_ID, JobStatus, Model
from falqon_core import fault_points
from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import MAX_LAYERS
from tests.support.api import TINY_CONFIG
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer, weights_of

STEPS = 20
TAKEN_BYTES = 2**26  # of a disk that may be empty: more than a layer, so that some model fits
BEFORE_ANY_CHECKPOINT, AFTER_ONE = 0, 1


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm("")


def everything(folder: Path) -> set[str]:
    """Whatever is stored, unfinished files too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def resume(backend: Backend, job_id: str) -> None:
    with backend.database.transaction() as session:
        transitions.resume(session, DEFAULT_PROJECT_ID, job_id, backend.settings)


@pytest.mark.parametrize(
    ("point", "num_checkpoints"),
    [
        ("during_staging=enospc", BEFORE_ANY_CHECKPOINT),
        ("storage_fetch=enospc", BEFORE_ANY_CHECKPOINT),
        ("checkpoint_write=enospc*2", AFTER_ONE),  # in the trainer
        ("during_checkpoint_upload=enospc*3", AFTER_ONE),
        ("storage_write=enospc*4", AFTER_ONE),
        ("before_hand_in=enospc", 2),
        ("during_result_upload=enospc*2", 2),
    ],
)
def test_a_full_disk_pauses_the_job_and_leaves_what_was_there(
    embedded_backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    num_checkpoints: int,
) -> None:
    backend = embedded_backend
    name = point.partition("=")[0]
    job_id = backend.add_job(
        FakeTrainer(steps=STEPS, step_seconds=0.05 if num_checkpoints == AFTER_ONE else 0)
    )
    before = everything(backend.settings.data_dir / "objects")
    monkeypatch.setenv("FAULT_POINTS", point if name == "checkpoint_write" else "")
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path / "marks"))
    fault_points.arm(point, str(tmp_path / "marks"))
    supervisor = backend.supervisor()
    assert supervisor.execute_next()
    assert (tmp_path / "marks" / name).exists()
    job = backend.job(job_id)
    assert (job.status, job.paused_reason, job.infra_failures, job.error_code) == (
        JobStatus.PAUSED,
        "disk_full",
        0,
        None,
    )
    last = backend.events(job_id)[-1]
    assert (last.level, (last.data or {})["code"]) == ("warn", "disk_full")
    checkpoints = backend.checkpoints(job_id)
    assert len(checkpoints) >= num_checkpoints
    stored = everything(backend.settings.data_dir / "objects") - before
    prefixes = tuple(checkpoint.storage_prefix for checkpoint in checkpoints)
    prefixes += (trainer_log(DEFAULT_PROJECT_ID, job_id, 1),)
    assert all(key.startswith(prefixes) for key in stored if "/jobs/" in key), (
        "only what a row names"
    )
    assert list((backend.settings.work_dir / "attempts").glob("[!.]*")) == []
    assert supervisor.execute_next() is False, "it waits for somebody to make space"
    monkeypatch.setenv("FAULT_POINTS", "")
    fault_points.arm("")
    resume(backend, job_id)
    assert supervisor.execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert backend.weights(job_id) == weights_of(STEPS)
    assert bool(backend.attempts(job_id)[1].start_step) is (num_checkpoints > 0)


def sizes(hidden: int, num_layers: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": hidden // 128,
        "num_hidden_layers": num_layers,
    }


def sizes_between(low: int, high: int) -> dict[str, int]:
    """Return those of a model whose job writes so many bytes."""
    for hidden in range(2**10, 2**16, 128):
        bytes_of_one, bytes_of_two = (
            expected_bytes(TINY_CONFIG | sizes(hidden, number), Recipe()) for number in (1, 2)
        )
        of_layer = bytes_of_two - bytes_of_one
        layers = 1 + round(((low + high) / 2 / DISK_MARGIN - bytes_of_one) / of_layer)
        needed = (
            DISK_MARGIN * expected_bytes(TINY_CONFIG | sizes(hidden, layers), Recipe())
            if 0 < layers <= MAX_LAYERS
            else 0
        )
        if low < needed < high:
            return sizes(hidden, layers)
    raise AssertionError(f"no model needs between {low} and {high} bytes")


def job_on_model_of(backend: Backend, changed: dict[str, int]) -> str:
    with backend.database.transaction() as session:
        model = session.get_one(Model, BASE_MODEL)
        session.execute(
            update(Model).where(Model.id == BASE_MODEL).values(config=model.config | changed)
        )
    return backend.add_job()


def test_a_job_that_does_not_fit_the_disk_now_is_not_begun(embedded_backend: Backend) -> None:
    backend = embedded_backend
    with (backend.settings.data_dir / "taken").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, TAKEN_BYTES)
    disk = shutil.disk_usage(backend.settings.data_dir)
    job_id = job_on_model_of(backend, sizes_between(disk.free, disk.total))
    backend.supervisor().execute_next()
    assert (backend.job(job_id).status, backend.job(job_id).paused_reason) == (
        JobStatus.PAUSED,
        "disk_full",
    )
    assert not any(event.message.startswith("Training started") for event in backend.events(job_id))


@pytest.mark.parametrize("num_layers", [128, 512])
def test_a_job_that_can_never_fit_the_disk_fails_at_once_with_numbers(
    embedded_backend: Backend, num_layers: int
) -> None:
    backend = embedded_backend
    job_id = job_on_model_of(backend, sizes(2**17, num_layers))
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert (job.status, job.attempt, job.error_code, job.error_param) == (
        JobStatus.FAILED,
        1,
        "job_too_large",
        "model",
    )
    needed = (
        r"About [\d.]+ [KMGTPE]B of disk are needed, and the disk of this worker has [\d.]+ "
        r"[MGTP]B in all\."
    )
    assert re.match(needed, job.error_message or ""), job.error_message
    assert not any(event.message.startswith("Training started") for event in backend.events(job_id))
