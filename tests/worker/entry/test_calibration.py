"""What a new worker measures while it waits for its first job."""

import sys
from dataclasses import replace

import pytest

from app.workers import service as workers
from falqon_core.estimate.calibration import Calibration
from tests.support.backend import Backend, supervise
from tests.worker.test_measured import estimate
from worker.entry.calibration import calibrate_worker
from worker.entry.workers import GpuWorker
from worker.machine.gpu import Machine

TRAINER = """
import os, sys, time
from falqon_core.contract.messages import StepMetrics, encode
if sys.argv[1] == "train":
    port = int(sys.argv[sys.argv.index("--message-fd") + 1])
    for step in range(1, 4):
        time.sleep(0.4)
        os.write(port, encode(StepMetrics(
            step=step, total_steps=3, epoch=1.0, train_loss=1.0, learning_rate=0.1, grad_norm=1.0,
            tokens=8, trained_tokens=4, tokens_per_second=1.0, elapsed_seconds=0.25 * step,
            codes_changed=0.0, memory_bytes=1,
        )))
"""


def poll(backend: Backend, program: str) -> None:
    """Let a new worker look for a job, with this program for a trainer."""
    usual = backend.context()
    settings = usual.settings.model_copy(
        update={"calibrate": True, "trainer_command": [sys.executable, "-c", program]}
    )
    context = replace(usual, settings=settings)
    GpuWorker(context, supervise(context)).poll()


def stored(backend: Backend) -> Calibration | None:
    with backend.database.read() as session:
        return workers.calibration_of(session, "cpu")


def test_a_new_worker_measures_once_and_the_first_estimate_knows_it(backend: Backend) -> None:
    assert "measured here" not in estimate(backend).explanation
    poll(backend, TRAINER)
    measured = stored(backend)
    assert measured is not None
    assert measured.start_seconds > 0.4
    assert measured.step_seconds == 0.25
    assert "measured here" in estimate(backend).explanation
    poll(backend, TRAINER)
    assert stored(backend) == measured


def test_no_job_waits_for_the_calibration(embedded_backend: Backend) -> None:
    usual = embedded_backend.context()
    settings = usual.settings.model_copy(
        update={"calibrate": True, "trainer_command": [sys.executable, "-c", TRAINER]}
    )
    embedded_backend.add_job()
    assert not calibrate_worker(replace(usual, settings=settings), Machine("cpu", 2))
    assert stored(embedded_backend) is None


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "print('no messages')"])
def test_a_worker_goes_on_without_a_measurement(embedded_backend: Backend, program: str) -> None:
    poll(embedded_backend, program)
    assert stored(embedded_backend) is None
