import sys
import tempfile
import threading
from pathlib import Path

import pytest

from app.models import Worker
from falqon_core.contract.diagnosis import Diagnosis
from tests.support.backend import Backend, supervise
from tests.support.nvidia import H100, install_driver
from worker.entry.doctor import diagnose_worker
from worker.entry.workers import GpuWorker
from worker.machine.card_locks import lock_cards
from worker.machine.gpu import Machine

GPU = Machine("h100", 1, (3, 5))


@pytest.fixture(autouse=True)
def _locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def stored_diagnosis(backend: Backend, owner: str) -> Diagnosis | None:
    with backend.database.read() as session:
        worker = session.get(Worker, owner)
        return worker and worker.diagnosis


def test_the_card_is_tried_once_before_the_first_job(backend: Backend) -> None:
    context = backend.context()
    worker = GpuWorker(context, supervise(context, GPU))
    job_id = backend.add_job()
    worker.poll()
    diagnosis = stored_diagnosis(backend, context.owner)
    assert diagnosis is not None
    assert [(row.status, row.detail) for row in diagnosis.rows] == [("failed", "3")]
    assert backend.job(job_id).status == "succeeded", "a fault is told, and keeps no job away"
    with backend.database.read() as session:
        assert session.get_one(Worker, context.owner).max_gpus == 2
    with backend.database.transaction() as session:
        session.query(Worker).update({"diagnosis": None})
    worker.poll()
    assert stored_diagnosis(backend, context.owner) is None


def test_a_card_in_use_and_a_cpu_are_left_alone(backend: Backend) -> None:
    context = backend.context(threading.Event())
    with lock_cards([3, 5], 2):
        diagnose_worker(context, GPU)
    diagnose_worker(context, Machine("cpu", 2))
    assert stored_diagnosis(backend, context.owner) is None


def test_a_card_that_a_cpu_stands_in_for_is_a_failure(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    backend.settings = backend.settings.model_copy(update={"device": "auto"})
    context = backend.context()
    diagnose_worker(context, Machine("cpu", 2))
    diagnosis = stored_diagnosis(backend, context.owner)
    assert diagnosis is not None
    (row,) = diagnosis.rows
    assert (row.name, row.status) == ("GPU", "failed")
    assert "leaves every card out; unset it" in row.detail


@pytest.mark.parametrize(
    "program", ["print('no JSON')", "import time; time.sleep(60)"], ids=["no answer", "drained"]
)
def test_a_worker_goes_on_without_an_answer(backend: Backend, program: str) -> None:
    backend.settings = backend.settings.model_copy(
        update={"trainer_command": [sys.executable, "-c", program]}
    )
    shutting_down = threading.Event()
    if "sleep" in program:
        shutting_down.set()
    context = backend.context(shutting_down)
    diagnose_worker(context, GPU)
    assert stored_diagnosis(backend, context.owner) is None
