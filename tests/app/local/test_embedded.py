"""`falqon up` on the fake trainer; the order of the tests is the life of one service."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai.types.fine_tuning import FineTuningJob

from app.local.embedded import is_ready
from tests.support.backend import ROOT
from tests.support.fake_trainer import FakeTrainer
from tests.support.local_server import QuietHandler, RefusingProxy, serving_by
from tests.support.nvidia import H100, RTX_4090, install_driver
from tests.support.service import Service, free_port
from tests.support.waiting import wait_for

EXIT_ALREADY_UP = 3
RECOVERY_SECONDS = 120  # a start of Python, the end of a lease, and a job
BEHIND = {"no_proxy": "", "NO_PROXY": ""}  # a proxy, and no address without it


@pytest.fixture(scope="module")
def service(short_tmp: Path) -> Iterator[Service]:
    service = Service(
        short_tmp / "up",
        {"FALQON_LEASE": "PT3S", "FALQON_HEARTBEAT": "PT0.5S", "FALQON_POLL": "PT0.5S"},
    )
    service.wait_until_up()
    yield service
    service.close()


def create_job(service: Service, fake: FakeTrainer) -> FineTuningJob:
    record = json.dumps({"text": fake.model_dump_json()}).encode()
    file = service.client.files.create(file=("fake.jsonl", record), purpose="fine-tune")
    return service.client.fine_tuning.jobs.create(model="falqon-tiny", training_file=file.id)


def status(service: Service, job: FineTuningJob) -> str:
    return service.client.fine_tuning.jobs.retrieve(job.id).status


def live_jobs(service: Service) -> list[FineTuningJob]:
    jobs = service.client.fine_tuning.jobs.list()
    return [job for job in jobs if job.status in ("queued", "running")]


def kill(service: Service, *words: str) -> int:
    (pid,) = wait_for(
        lambda: pids if len(pids := service.pids(*words)) == 1 else None, what=f"one {words}"
    )
    os.kill(pid, signal.SIGKILL)
    return pid


def test_falqon_up_is_ready_and_its_files_are_private(service: Service) -> None:
    assert service.ready() == "ok"
    assert service.folder.stat().st_mode & 0o777 == 0o700
    assert (service.folder / "valkey.sock").stat().st_mode & 0o077 == 0
    assert (service.folder / "client.json").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in (service.folder / "logs").iterdir()} == {
        "api.log",
        "valkey.log",
        "worker-cpu.log",
        "worker-gpu.log",
    }
    assert service.url in service.output.read_text()
    assert httpx.get(f"{service.url}/healthz", headers={"host": "localhost"}).status_code == 200
    rebound = httpx.get(f"{service.url}/healthz", headers={"host": f"evil.example:{service.port}"})
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (400, "unknown_host")


def test_falqon_up_starts_a_worker_for_each_card(
    short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, RTX_4090, H100, RTX_4090)
    service = Service(short_tmp / "cards")
    try:
        service.wait_until_up()
        logs = {path.name for path in (service.folder / "logs").glob("worker-*")}
        assert logs >= {"worker-gpu-0.log", "worker-gpu-1.log", "worker-cpu.log"}
        assert len(service.pids("celery", "-Q", "gpu")) == 2, "the third is charged otherwise"
    finally:
        service.close()


def test_falqon_up_asks_its_api_without_a_proxy(short_tmp: Path) -> None:
    with serving_by(RefusingProxy) as proxy:
        service = Service(short_tmp / "proxied", BEHIND | {"http_proxy": proxy})
        try:
            service.wait_until_up()
        finally:
            service.stop()
            service.close()


@pytest.mark.parametrize(
    ("status_code", "content", "ready"),
    [
        (200, b"{}", True),
        (503, b'{"checks": {"database": "ok", "disk": "full"}}', True),
        (503, b'{"checks": {"database": "unavailable"}}', False),
        (503, b"<h1>Service unavailable</h1>", False),
        (503, b"\xff", False),
        (503, b"{}", False),
        (503, b"[]", False),
        (503, b'{"checks": null}', False),
    ],
)
def test_only_an_answer_of_the_service_is_ready(
    status_code: int, content: bytes, ready: bool
) -> None:
    class Answers(QuietHandler):
        def do_GET(self) -> None:
            self.send(status_code, content)

    with serving_by(Answers) as url:
        assert is_ready(url) is ready
    assert not is_ready(url), "it has ended"


def test_files_of_falqon_up_are_private_after_a_job(service: Service) -> None:
    """After a job, so that every folder is there."""
    job = create_job(service, FakeTrainer())
    wait_for(lambda: status(service, job) == "succeeded", RECOVERY_SECONDS, "the job succeeds")
    folders = [path for path in service.folder.iterdir() if path.is_dir()]
    assert {path.name for path in folders} >= {"logs", "objects", "valkey", "work"}
    assert [path for path in folders if path.stat().st_mode & 0o077] == []
    secrets = [service.folder / name for name in ("client.json", "session_secret", "falqon.db")]
    assert [path for path in secrets if path.stat().st_mode & 0o777 != 0o600] == []


def test_a_second_falqon_up_names_the_running_process(service: Service) -> None:
    second = service.run("up", "--port", str(free_port()), "--data-dir", str(service.folder))
    assert second.returncode == EXIT_ALREADY_UP
    assert str(service.process.pid) in second.stderr
    assert service.url in second.stderr


@pytest.mark.parametrize(
    "words", [("valkey-server",), ("app.cli", "--grace"), ("celery", "gpu")], ids=" ".join
)
def test_a_killed_child_comes_back_and_work_goes_on(
    service: Service, words: tuple[str, ...]
) -> None:
    job = create_job(service, FakeTrainer(steps=100, step_seconds=0.01))
    old = kill(service, *words)
    wait_for(
        lambda: [pid for pid in service.pids(*words) if pid != old],
        RECOVERY_SECONDS,
        f"{words} is started again",
    )
    wait_for(lambda: service.ready() == "ok", RECOVERY_SECONDS, "ready again")
    wait_for(lambda: status(service, job) == "succeeded", RECOVERY_SECONDS, "the job succeeds")


def test_a_killed_falqon_up_leaves_no_process(service: Service) -> None:
    create_job(service, FakeTrainer(steps=5000, step_seconds=0.02))
    wait_for(lambda: service.pids("fake_trainer.py"), what="a trainer")
    assert len(service.pids()) >= 6
    service.process.kill()
    service.process.wait()
    wait_for(lambda: not service.pids(), 20, "every process ends")


def start_again(service: Service) -> None:
    """From forks: how its children start has been tested."""
    service.forked = True
    service.process = service.start()
    wait_for(lambda: service.ready() == "ok", what="up again")


def test_sigterm_stops_everything_and_keeps_the_job(service: Service) -> None:
    """The job that the killed service left running."""
    start_again(service)
    (job,) = live_jobs(service)
    wait_for(lambda: service.pids("fake_trainer.py"), what="a trainer")
    assert len(service.pids()) >= 6
    assert service.stop() == 0
    assert service.pids() == []
    start_again(service)
    wait_for(lambda: status(service, job) == "running", RECOVERY_SECONDS, "the job runs again")


def test_a_second_interrupt_does_not_wait_for_anybody(service: Service) -> None:
    """Starts from the job that runs again."""
    for job in live_jobs(service):
        service.client.fine_tuning.jobs.cancel(job.id)
    job = create_job(service, FakeTrainer(steps=5000, step_seconds=0.02, ignores_sigterm=True))
    wait_for(
        lambda: status(service, job) == "running" and service.pids("fake_trainer.py"),
        what="the ignores_sigterm trainer runs",
    )
    service.process.send_signal(signal.SIGINT)
    wait_for(lambda: service.ready() is None, what="it is stopping")
    service.process.send_signal(signal.SIGINT)
    service.process.wait(20)
    wait_for(lambda: not service.pids(), 20, "every process ends")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--host", "0.0.0.0"], 2, "--allow-remote"),
        (["--port", "{used}"], 1, "Choose another --port"),
        (["--port", "0"], 2, "--port"),
        (["--host", "192.0.2.1", "--allow-remote"], 1, "Choose another --host"),
        (["--data-dir", "/dev/null"], 1, "/dev/null cannot be the data folder: File exists."),
    ],
)
def test_falqon_up_refuses_bad_arguments(
    tmp_path: Path, arguments: list[str], code: int, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        filled = [argument.format(used=server.getsockname()[1]) for argument in arguments]
        command = Service.command("up", "--data-dir", str(tmp_path / "data"), *filled)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert done.returncode == code
    assert reason in done.stderr
    assert not (tmp_path / "data" / "falqon.db").exists()
