import csv
import io

import pytest
from sqlalchemy import select

from app.attempts.metrics_file import read_steps, write_csv
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.metrics_csv import ROWS_AT_ONCE
from app.models import Attempt, Desired, File, FileStatus, JobStatus, Orphan, Purpose
from app.models.base import JsonObject
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from worker.attempt import results

HEADER = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]


def rows_of(content: bytes) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert reader.fieldnames == HEADER
    return list(reader)


def metrics_files(backend: Backend) -> list[File]:
    with backend.database.read() as session:
        return list(session.scalars(select(File).where(File.purpose == Purpose.FINE_TUNE_RESULTS)))


def attempt(backend: Backend, job_id: str, start_step: int, *measured: JsonObject) -> None:
    """One more execution of the job that sees these metrics and is then handed back."""
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=2, lease_seconds=600)
        assert job is not None
        claim = Claim(job.id, job.attempt, "w")
        session.get_one(Attempt, (job.id, job.attempt)).start_step = start_step
        claims.append_events(
            session,
            claim,
            [NewEvent("said")] + [NewEvent("", type="metrics", data=data) for data in measured],
        )
        claims.release(
            session, claim, NewEvent("released"), counts_as_failure=False, max_infra_failures=3
        )


def test_a_job_that_succeeds_leaves_its_metrics(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    (file,) = metrics_files(backend)
    assert job.result_file_id == file.id
    assert (file.project_id, file.status, file.filename) == (
        job.project_id,
        FileStatus.PROCESSED,
        f"{job_id}-metrics.csv",
    )
    content = b"".join(backend.storage.chunks(file.storage_key))
    assert len(content) == file.bytes
    rows = rows_of(content)
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert [float(row["train_loss"]) for row in rows] == [1 / step for step in range(1, 21)]
    assert {row["train_accuracy"] for row in rows} == {"0.5"}
    assert [row["valid_loss"] for row in rows] == [""] * 19 + ["0.25"]
    assert rows[-1]["valid_mean_token_accuracy"] == "0.75"
    with backend.database.read() as session:
        assert file.storage_key not in session.scalars(select(Orphan.storage_key)).all()


def test_after_a_crash_every_step_stands_there_once(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(steps=12, checkpoint_every=5, crash_at=8))
    while backend.job(job_id).status != JobStatus.SUCCEEDED:
        assert backend.supervisor().execute_next()
    assert len(backend.attempts(job_id)) == 2
    (file,) = metrics_files(backend)
    rows = rows_of(b"".join(backend.storage.chunks(file.storage_key)))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))


def test_the_latest_measurement_of_a_step_counts(backend: Backend) -> None:
    job_id = backend.add_job()
    attempt(
        backend,
        job_id,
        0,
        *({"step": step, "train_loss": 1.0, "valid_loss": 9.0} for step in range(1, 9)),
    )
    attempt(
        backend,
        job_id,
        4,
        {"step": 5, "train_loss": 2.0},
        {"step": 6, "train_reward_accuracy": 0.5},
        {"step": 6, "valid_loss": 3.0},
    )
    with backend.database.read() as session:
        steps = read_steps(session, job_id)
    old = {"train_loss": 1.0, "valid_loss": 9.0}
    assert steps == {
        **dict.fromkeys(range(1, 5), old),
        5: {"train_loss": 2.0},
        6: {"train_accuracy": 0.5, "valid_loss": 3.0},
    }
    attempt(backend, job_id, 0, {"step": 1, "train_loss": 7.0})
    with backend.database.read() as session:
        assert read_steps(session, job_id) == {1: {"train_loss": 7.0}}


@pytest.mark.parametrize("count", [0, 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1])
def test_lines_survive_being_cut_into_chunks(count: int) -> None:
    content = b"".join(
        write_csv({step: {"train_loss": 0.1 * step} for step in range(count, 0, -1)})
    )
    assert [int(row["step"]) for row in rows_of(content)] == list(range(1, count + 1))


def test_a_job_that_does_not_succeed_leaves_none(
    embedded_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = embedded_backend
    failed = backend.add_job(FakeTrainer(user_error_at=3))
    backend.supervisor().execute_next()
    cancelled = backend.add_job()
    upload = results.upload

    def cancel_meanwhile(*arguments: object) -> object:
        backend.set(cancelled, desired=Desired.CANCEL)
        return upload(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "upload", cancel_meanwhile)
    backend.supervisor().execute_next()
    assert [backend.job(job_id).status for job_id in (failed, cancelled)] == [
        JobStatus.FAILED,
        JobStatus.CANCELLED,
    ]
    assert metrics_files(backend) == []
    assert backend.job(cancelled).result_file_id is None
    with backend.database.read() as session:
        (left,) = (key for key in session.scalars(select(Orphan.storage_key)) if "/files/" in key)
    assert backend.storage.keys("projects/proj_default/files").count(left) == 1, (
        "written, named by nobody, and known to be so"
    )
