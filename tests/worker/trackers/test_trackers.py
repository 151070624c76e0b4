"""Through the real libraries where they are installed; what a library can do wrong is done by a
module that takes its place.
"""

import importlib.util
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from app.models import JobStatus
from app.models.job_request import JobRequest
from tests.support.backend import BASE_MODEL, Backend, processes
from tests.support.fake_trainer import FakeTrainer
from worker.attempt import trackers

TENSORBOARD = {"type": "tensorboard"}


@pytest.fixture
def backend(embedded_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """With all the time that a busy machine may take."""
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 60.0)
    return embedded_backend


def reporting_job(
    backend: Backend, *integrations: dict[str, Any], fake: FakeTrainer | None = None
) -> str:
    job_id = backend.add_job(fake)
    backend.set(
        job_id,
        requested=JobRequest.model_validate(
            {"model": BASE_MODEL, "training_file": "file-a", "integrations": list(integrations)}
        ),
    )
    return job_id


def execute(
    backend: Backend, *integrations: dict[str, Any], fake: FakeTrainer | None = None
) -> str:
    job_id = reporting_job(backend, *integrations, fake=fake)
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    return job_id


def execute_twice(backend: Backend, *integrations: dict[str, Any]) -> str:
    """The trainer is killed at step 8 and continues from the checkpoint of step 5."""
    job_id = reporting_job(backend, *integrations, fake=FakeTrainer(crash_at=8))
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.QUEUED
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    return job_id


def warnings(backend: Backend, job_id: str) -> list[str]:
    return [event.message for event in backend.events(job_id) if event.level == "warn"]


def instead_of_the_library(folder: Path, patch: pytest.MonkeyPatch, program: str) -> None:
    (folder / "tensorboardX.py").write_text(program)
    patch.syspath_prepend(str(folder))
    patch.setenv("PYTHONPATH", str(folder), prepend=":")


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """From event files, which are records of length, checksum, protobuf, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            points += [
                (event.step, value.tag, value.simple_value)
                for value in event.summary.value
                if value.WhichOneof("value") == "simple_value"
            ]
            content = content[16 + length :]
    return points


def test_tensorboard_has_every_step(backend: Backend) -> None:
    job_id = execute(backend, TENSORBOARD)
    points = scalars(backend.settings.reports_dir / "tensorboard" / job_id)
    losses = [(step, round(value, 4)) for step, tag, value in points if tag == "train_loss"]
    assert losses == [(step, round(1 / step, 4)) for step in range(1, 21)]
    assert [(step, value) for step, tag, value in points if tag == "valid_loss"] == [(20, 0.25)]
    assert {"learning_rate", "grad_norm", "tokens_per_second", "eta_seconds"} <= {
        tag for _, tag, _ in points
    }
    assert not {"step", "total_steps", "cost_accrued"} & {tag for _, tag, _ in points}
    assert warnings(backend, job_id) == []


def test_a_job_that_is_executed_twice_reports_to_one_run(backend: Backend) -> None:
    job_id = execute_twice(backend, TENSORBOARD)
    steps = [
        step
        for step, tag, _ in scalars(backend.settings.reports_dir / "tensorboard" / job_id)
        if tag == "train_loss"
    ]
    assert set(steps) == set(range(1, 21))


def test_a_job_without_integrations_starts_nothing(backend: Backend) -> None:
    execute(backend)
    assert not backend.settings.reports_dir.exists()


def test_a_library_that_is_not_installed_is_one_warning(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "raise ModuleNotFoundError(\"No module named 'tensorboardX'\", name='tensorboardX')"
    instead_of_the_library(tmp_path, monkeypatch, program)
    job_id = execute(backend, TENSORBOARD)
    reason = "the package 'tensorboardX' is not installed on the worker"
    assert warnings(backend, job_id) == [
        f"Reporting to tensorboard has stopped: {reason}. The job goes on without it."
    ]
    (event,) = [event for event in backend.events(job_id) if event.level == "warn"]
    assert event.data == {"integration": "tensorboard"}


FAILING = """
import os
class SummaryWriter:
    def __init__(self, logdir, filename_suffix): print("noise " * 20_000)
    def add_text(self, *_): pass
    def add_scalar(self, name, value, step):
        if step == 5:
            raise RuntimeError("no access with " + os.environ["SOME_API_KEY"] + "\\nsecond line")
"""


def test_an_error_of_the_library_is_one_warning_without_secrets(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "canary-0123")
    instead_of_the_library(tmp_path, monkeypatch, FAILING)
    job_id = execute(backend, TENSORBOARD)
    (warning,) = warnings(backend, job_id)
    assert "RuntimeError: no access with ***." in warning
    assert not any("canary" in event.message for event in backend.events(job_id))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "its process ended with exit code -9",
        ),
        ("import time; time.sleep(3600)", "it did not finish within 1 seconds"),
        (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)",
            "it did not finish within 1 seconds",
        ),
    ],
    ids=["killed", "hanging", "ignores_sigterm"],
)
def test_whatever_the_library_does_the_job_succeeds(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 1.0 if "sleep" in program else 60.0)
    instead_of_the_library(tmp_path, monkeypatch, program)
    job_id = execute(backend, TENSORBOARD)
    assert [reason in warning for warning in warnings(backend, job_id)] == [True]
    assert processes("worker.trackers", str(tmp_path)) == []


def test_a_tracker_that_falls_behind_is_stopped_and_training_never_waits(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "MAX_BEHIND", 10)
    instead_of_the_library(tmp_path, monkeypatch, "import time; time.sleep(3600)")
    job_id = execute(
        backend, TENSORBOARD, fake=FakeTrainer(steps=3000, step_seconds=0, checkpoint_every=3000)
    )
    (warning,) = warnings(backend, job_id)
    assert "it is more than 10 points behind" in warning


def test_a_disk_that_refuses_is_one_warning(backend: Backend) -> None:
    backend.settings.reports_dir.write_text("in the way")
    job_id = execute(backend, TENSORBOARD)
    assert [
        "its process could not be started (File exists)" in warning
        for warning in warnings(backend, job_id)
    ] == [True]


ENVIRONMENT = """
import os
open("environment", "w").write(" ".join(os.environ))
class SummaryWriter:
    def __init__(self, logdir, filename_suffix): pass
    def add_text(self, *_): pass
    def add_scalar(self, *_): pass
    def close(self): pass
"""


def test_a_reporter_has_the_keys_of_trackers_and_none_of_ours(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {
        "DATABASE_URL",
        "REDIS_URL",
        "STORAGE_URL",
        "FALQON_ADMIN_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
    }
    for name in {"WANDB_API_KEY", "MLFLOW_TRACKING_URI", *ours}:
        monkeypatch.setenv(name, "x")
    instead_of_the_library(tmp_path, monkeypatch, ENVIRONMENT)
    execute(backend, TENSORBOARD)
    variables = set((backend.settings.reports_dir / "environment").read_text().split())
    assert {"WANDB_API_KEY", "MLFLOW_TRACKING_URI"} <= variables
    assert not ours & variables


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"the optional package {package} is not installed")


@needs("wandb")
def test_wandb_offline(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    job_id = execute(backend, {"type": "wandb", "wandb": {"project": "support", "tags": ["a"]}})
    assert warnings(backend, job_id) == []
    (recorded,) = (backend.settings.reports_dir / "wandb").glob(
        f"offline-run-*-{job_id}/run-{job_id}.wandb"
    )
    assert b"train_loss" in recorded.read_bytes()


@needs("mlflow")
def test_mlflow_with_a_local_store(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    job_id = execute_twice(
        backend, {"type": "mlflow", "mlflow": {"experiment": "support", "name": "first"}}
    )
    assert not any("mlflow" in warning for warning in warnings(backend, job_id))
    with sqlite3.connect(store) as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [
            ("first", "FINISHED")
        ]
        steps = database.execute(
            "SELECT DISTINCT step FROM metrics WHERE key = 'train_loss' ORDER BY step"
        ).fetchall()
    database.close()
    assert [step for (step,) in steps] == list(range(1, 21))


@needs("trackio")
def test_trackio_with_its_local_database(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    job_id = execute(
        backend, {"type": "trackio", "trackio": {"project": "support", "name": "first"}}
    )
    assert warnings(backend, job_id) == []
    with sqlite3.connect(tmp_path / "trackio" / "support.db") as database:
        rows = database.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY step"
        ).fetchall()
    database.close()
    assert {name for name, _, _ in rows} == {f"first {job_id}"}
    assert {step for _, step, metrics in rows if b"train_loss" in metrics} == set(range(1, 21))
