"""A disk that fills up at any write of an attempt pauses the job, and costs nothing of what was there before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from app.jobs import service
from app.models import DEFAULT_PROJECT_ID, JobStatus, Model
from falqon_core.spec import faults
from tests.support.house import BASE_MODEL, House
from tests.support.toy_trainer import Toy, weights_of

STEPS = 20
BEFORE_ANY_CHECKPOINT, AFTER_ONE = 0, 1


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm("")


def everything(folder: Path) -> set[str]:
    """Whatever is stored, unfinished files too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def resume(house: House, job_id: str) -> None:
    with house.database.transaction() as session:
        service.resume(session, DEFAULT_PROJECT_ID, job_id, house.settings)


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
    embedded_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, num_checkpoints: int
) -> None:
    house, name = embedded_house, point.partition("=")[0]
    job_id = house.add_job(Toy(steps=STEPS, step_seconds=0.05 if num_checkpoints == AFTER_ONE else 0))
    before = everything(house.settings.data_dir / "objects")
    monkeypatch.setenv("FAULT_POINTS", point if name == "checkpoint_write" else "")
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path / "marks"))
    faults.arm(point, str(tmp_path / "marks"))
    supervisor = house.supervisor()
    assert supervisor.execute_next()
    assert (tmp_path / "marks" / name).exists()
    job = house.job(job_id)
    assert (job.status, job.paused_reason, job.infra_failures, job.error_code) == (JobStatus.PAUSED, "disk_full", 0, None)
    last = house.events(job_id)[-1]
    assert (last.level, last.data) == ("warn", {"code": "disk_full"})
    checkpoints = house.checkpoints(job_id)
    assert len(checkpoints) >= num_checkpoints
    stored = everything(house.settings.data_dir / "objects") - before
    prefixes = tuple(checkpoint.storage_prefix for checkpoint in checkpoints)
    assert all(key.startswith(prefixes) for key in stored if "/jobs/" in key), "only what a row names"
    assert list((house.settings.work_dir / "attempts").glob("[!.]*")) == []
    assert supervisor.execute_next() is False, "it waits for somebody to make space"
    monkeypatch.setenv("FAULT_POINTS", "")
    faults.arm("")
    resume(house, job_id)
    assert supervisor.execute_next()
    assert house.job(job_id).status == JobStatus.SUCCEEDED
    assert house.weights(job_id) == weights_of(STEPS)
    assert bool(house.attempts(job_id)[1].start_step) is (num_checkpoints > 0)


def test_what_cannot_fit_is_not_begun(embedded_house: House) -> None:
    house = embedded_house
    with house.database.transaction() as session:
        model = session.get_one(Model, BASE_MODEL)
        huge = model.config | {"num_hidden_layers": 10**12}
        session.execute(update(Model).where(Model.id == BASE_MODEL).values(config=huge))
    job_id = house.add_job()
    house.supervisor().execute_next()
    assert (house.job(job_id).status, house.job(job_id).paused_reason) == (JobStatus.PAUSED, "disk_full")
    assert not any(event.message.startswith("Training started") for event in house.events(job_id))
