"""The device is promised once: estimated, claimed, told to the trainer, never replaced."""

import sys
from pathlib import Path

import pytest

from app.models import JobStatus
from tests.support.backend import Backend, supervise
from worker.attempt.supervisor import Supervisor
from worker.attempt.trainer import TrainerProcess
from worker.machine.gpu import Machine

SHOW_CARDS = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"


def supervisor(backend: Backend, machine: Machine) -> Supervisor:
    return supervise(backend.context(), machine)


@pytest.mark.parametrize(
    ("device", "cards", "seen"), [("h100", (1, 2), "1,2"), ("h100", (), "7"), ("cpu", (0, 1), "")]
)
def test_the_trainer_sees_the_cards_of_its_attempt(
    device: str, cards: tuple[int, ...], seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    program = [sys.executable, "-c", SHOW_CARDS]
    machine = Machine(device, 1, cards)
    with TrainerProcess(program, tmp_path, tmp_path, tmp_path / "log", machine) as process:
        process.messages.read()
        process.wait()
        process.messages.close()
        assert process.last_log_lines() == f"{seen}\n"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="shows what happens without a GPU")
def test_a_promised_gpu_that_is_not_there_fails_the_attempt_for_good(backend: Backend) -> None:
    backend.settings = backend.settings.model_copy(
        update={"trainer_command": [sys.executable, "-m", "falqon_core"]}
    )
    job_id = backend.add_job()
    supervisor(backend, Machine("h100", 1)).execute_next()
    job = backend.job(job_id)
    assert (job.status, job.error_code, job.error_param) == (
        JobStatus.FAILED,
        "device_missing",
        "device",
    )
    assert job.error_message is not None
    assert "torch sees no GPU here" in job.error_message
