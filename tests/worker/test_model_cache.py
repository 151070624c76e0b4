"""A job that continues from another one's model or checkpoint, on the toy trainer."""

from pathlib import Path

import pytest
from sqlalchemy import delete

from app.models import Checkpoint, JobStatus
from tests.support.house import BASE_MODEL, House
from tests.support.toy_trainer import Toy


def staged_weights(house: House) -> set[bytes]:
    """Of every base model that is on this machine."""
    return {path.read_bytes() for path in (house.settings.work_dir / "models").glob("*/model.safetensors")}


@pytest.fixture
def trained(embedded_house: House) -> str:
    job_id = embedded_house.add_job(Toy(steps=10))
    assert embedded_house.supervisor().execute_next()
    return job_id


def continue_from(house: House, checkpoint: Checkpoint) -> str:
    job_id = house.add_job(Toy(steps=5))
    house.set(job_id, base_checkpoint_id=checkpoint.id)
    house.supervisor().execute_next()
    return job_id


def test_a_fine_tuned_model_is_a_base(embedded_house: House, trained: str) -> None:
    house = embedded_house
    weights = house.weights(trained)
    assert weights not in staged_weights(house)
    job_id = house.add_job()
    house.set(job_id, base_model_id=house.job(trained).fine_tuned_model_id)
    house.supervisor().execute_next()
    job = house.job(job_id)
    assert job.status == JobStatus.SUCCEEDED
    assert weights in staged_weights(house)
    assert job.fine_tuned_model_id == f"ft:{BASE_MODEL}:default::{job_id[-8:]}", "named by the base at the beginning"


def test_a_checkpoint_is_merged_into_a_base_once(embedded_house: House, trained: str) -> None:
    house = embedded_house
    middle = house.checkpoints(trained)[0]
    assert middle.step == 5
    state = b"".join(house.storage.chunks(f"{middle.storage_prefix}/state.bin"))
    assert house.job(continue_from(house, middle)).status == JobStatus.SUCCEEDED
    assert state in staged_weights(house)
    folders = list((house.settings.work_dir / "models").iterdir())
    whole = ["SHA256SUMS", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in _with(folders, state).iterdir()) == whole
    second = continue_from(house, middle)
    assert house.job(second).status == JobStatus.SUCCEEDED
    assert sorted((house.settings.work_dir / "models").iterdir()) == sorted(folders)


def test_a_checkpoint_of_a_job_that_continued_from_one(embedded_house: House, trained: str) -> None:
    house = embedded_house
    second = continue_from(house, house.checkpoints(trained)[0])
    third = continue_from(house, house.checkpoints(second)[0])
    assert house.job(third).status == JobStatus.SUCCEEDED
    assert len(staged_weights(house)) == 3


def test_a_checkpoint_that_is_gone_fails_the_job_at_once(embedded_house: House, trained: str) -> None:
    house = embedded_house
    gone = house.checkpoints(trained)[0]
    with house.database.transaction() as session:
        session.execute(delete(Checkpoint).where(Checkpoint.id == gone.id))
    job = house.job(continue_from(house, gone))
    assert (job.status, job.error_code, job.error_param, job.infra_failures) == (JobStatus.FAILED, "base_model_missing", "model", 0)
    assert "has been deleted" in (job.error_message or "")


def test_a_checkpoint_that_cannot_be_exported_leaves_no_base_behind(embedded_house: House, trained: str) -> None:
    house = embedded_house
    broken = house.checkpoints(trained)[0]
    house.damage(f"{broken.storage_prefix}/state.bin")
    before = staged_weights(house)
    job_id = house.add_job()
    house.set(job_id, base_checkpoint_id=broken.id)
    house.supervisor(max_infra_failures=0).execute_next()
    assert house.job(job_id).error_code == "internal_error"
    assert staged_weights(house) == before
    assert [path for path in (house.settings.work_dir / "models").iterdir() if path.name.startswith(".")] == []


def _with(folders: list[Path], weights: bytes) -> Path:
    return next(folder for folder in folders if (folder / "model.safetensors").read_bytes() == weights)
