"""`falqon dispatch --to slurm`, with Slurm itself where it is installed, and with a stand-in."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from app.cli import app
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.queue import list_waiting
from app.dispatch.slurm import Slurm
from app.dispatch.starts import SchedulerUnavailable
from app.models import Desired, JobStatus
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT, Fork, run_falqon
from tests.support.slurm import SCRIPT, SECONDS, Cluster, StandIn, missing_slurm, rows_of
from tests.support.waiting import wait_for


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if reason := missing_slurm():
        pytest.skip(reason)
    cluster = Cluster(tmp_path / "slurm")
    yield cluster
    cluster.close()


@dataclass
class Site:
    """A queue of jobs and a Slurm for them."""

    backend: Backend
    slurm: Cluster | StandIn
    scheduler: Slurm
    releases: Path

    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.backend.database, self.scheduler, 0.05)

    def release(self, job_id: str) -> None:
        """Let the start of a job end."""
        (self.releases / f"release-{job_id}").touch()

    def states(self) -> dict[str, str]:
        """Return the state of each start by its name, of which none is there twice."""
        rows = rows_of(self.slurm.environment)
        states = {name: state for _, state, name in rows if state != "COMPLETING"}
        assert len(states) == len([row for row in rows if row[1] != "COMPLETING"])
        return states

    def wait_for_states(self, **expected: str) -> None:
        wanted = {f"falqon-{name.replace('_', '-')}": state for name, state in expected.items()}
        wait_for(lambda: self.states() == wanted, SECONDS, f"{wanted}, not {self.states()}")


@pytest.fixture(params=["slurm", "stand_in"])
def site(
    request: pytest.FixtureRequest,
    embedded_backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    releases = tmp_path / "releases"
    releases.mkdir()
    slurm: Cluster | StandIn
    slurm = request.getfixturevalue("cluster") if request.param == "slurm" else StandIn(releases)
    for name, value in {**slurm.environment, "RELEASES": str(releases)}.items():
        monkeypatch.setenv(name, value)
    script = tmp_path / "worker.sbatch"
    script.write_text(SCRIPT)
    return Site(embedded_backend, slurm, Slurm(script), releases)


def key_of(job_id: str, number: int | None = None) -> str:
    return job_id.replace("-", "_") + (f"_{number}" if number else "")


def add_job(backend: Backend, **columns: object) -> str:
    job_id = backend.add_job()
    if columns:
        backend.set(job_id, **columns)
    return job_id


def test_each_waiting_job_has_one_start_until_it_no_longer_waits(site: Site) -> None:
    backend, dispatcher = site.backend, site.dispatcher()
    wide, narrow, third = (
        add_job(backend, **columns)
        for columns in ({"num_gpus": 4, "gpu": "h100", "priority": 2}, {"num_gpus": 2}, {})
    )
    add_job(backend, status=JobStatus.PAUSED)
    for _ in range(3):
        dispatcher.tick()
        site.wait_for_states(
            **{key_of(wide): "RUNNING", key_of(narrow): "PENDING", key_of(third): "PENDING"}
        )
    backend.set(third, status=JobStatus.CANCELLED, desired=Desired.CANCEL)
    backend.set(wide, **running())
    dispatcher.tick()
    site.wait_for_states(**{key_of(wide): "RUNNING", key_of(narrow): "PENDING"})
    # The end of the job is told to its worker, which ends by itself.
    backend.set(wide, status=JobStatus.SUCCEEDED, lease_owner=None, lease_expires_at=None)
    dispatcher.tick()
    assert site.states()[f"falqon-{wide}"] == "RUNNING"
    site.release(wide)
    site.wait_for_states(**{key_of(narrow): "RUNNING"})


def running() -> dict[str, object]:
    return {
        "status": JobStatus.RUNNING,
        "attempt": 1,
        "lease_owner": "worker",
        "lease_expires_at": datetime(2100, 1, 1, tzinfo=UTC),
    }


def test_a_requeued_job_is_started_again_and_keeps_a_start_that_it_still_has(site: Site) -> None:
    backend, dispatcher = site.backend, site.dispatcher()
    job_id = add_job(backend)
    dispatcher.tick()
    site.wait_for_states(**{key_of(job_id): "RUNNING"})
    backend.set(job_id, attempt=1)  # Its worker released it, and has still to end.
    dispatcher.tick()
    site.wait_for_states(**{key_of(job_id): "RUNNING"})
    site.release(job_id)
    site.wait_for_states()
    (site.releases / f"release-{job_id}").unlink()
    dispatcher.tick()
    site.wait_for_states(**{key_of(job_id, 2): "RUNNING"})


@pytest.mark.parametrize("point", ["before_dispatch", "after_dispatch"])
def test_a_killed_dispatcher_leaves_no_job_without_a_start_and_none_with_two(
    site: Site, point: str, tmp_path: Path
) -> None:
    jobs = [add_job(site.backend) for _ in range(3)]
    armed = {"FAULT_POINTS": f"{point}=exit*2", "FAULT_MARKS": str(tmp_path)}
    command = ["dispatch", "--to", "slurm", "--script", str(site.scheduler.script)]
    environment = site.backend.environment() | armed
    killed = Fork(run_falqon, command, environment=environment, output=tmp_path / "log")
    assert killed.wait(SECONDS) == 137, (tmp_path / "log").read_text()
    assert len(site.states()) == (1 if point == "before_dispatch" else 2)
    again = Fork(run_falqon, command, environment=environment, output=tmp_path / "log")
    try:
        site.wait_for_states(**dict.fromkeys(map(key_of, jobs), "RUNNING"))
    finally:
        again.terminate()
    assert again.wait(SECONDS) == 0, (tmp_path / "log").read_text()


def test_of_two_starts_of_one_job_the_one_that_waits_is_withdrawn(site: Site) -> None:
    blocking = add_job(site.backend, num_gpus=4, priority=1)
    job_id = add_job(site.backend)
    site.dispatcher().tick()
    with site.backend.database.read() as session:
        (_, waiting) = list_waiting(session, 10)
    site.scheduler.submit(waiting)  # By a command that outlived its dispatcher.
    assert len(rows_of(site.slurm.environment)) == 3
    site.dispatcher().tick()
    site.wait_for_states(**{key_of(blocking): "RUNNING", key_of(job_id): "PENDING"})


def test_a_silent_controller_is_said_once_and_what_waits_is_handed_over_later(site: Site) -> None:
    ended = threading.Event()
    with capture_logs() as lines:
        thread = threading.Thread(target=site.dispatcher().run, args=(ended,))
        site.slurm.cut_off()
        try:
            thread.start()
            wait_for(lambda: lines, SECONDS, "a line")
            job_id = add_job(site.backend)
            with pytest.raises(SchedulerUnavailable, match="Unable to contact slurm controller"):
                site.dispatcher().tick()
        finally:
            site.slurm.come_back()
        wait_for(lambda: len(lines) >= 3, SECONDS, "a start")
        ended.set()
        thread.join(SECONDS)
    assert [line["event"] for line in lines] == [
        "nothing can be dispatched, retrying",
        "start submitted",
        "scheduler and database answer again",
    ]
    site.wait_for_states(**{key_of(job_id): "RUNNING"})


def test_a_start_that_is_refused_is_said_once_and_keeps_no_other_from_its_own(site: Site) -> None:
    dispatcher = site.dispatcher()
    for _ in range(2):
        add_job(site.backend, num_gpus=8, priority=9)
    fitting = add_job(site.backend)
    with capture_logs() as lines:
        for _ in range(2):
            dispatcher.tick()
    refused = [line for line in lines if line["log_level"] == "warning"]
    assert [line["event"] for line in refused] == ["the scheduler refuses a start"]
    assert "node configuration is not available" in refused[0]["reason"]
    site.wait_for_states(**{key_of(fitting): "RUNNING"})


def test_a_start_that_ends_without_its_job_is_not_repeated_at_once(site: Site) -> None:
    times = {"now": 0.0}
    dispatcher = Dispatcher(site.backend.database, site.scheduler, 1, lambda: times["now"])
    job_id = add_job(site.backend)
    site.release(job_id)
    with capture_logs() as lines:
        for now in (0, 29, 31, 80, 92):
            times["now"] = now
            dispatcher.tick()
            site.wait_for_states()
    assert len(lines) == 3, lines


@pytest.mark.slow
def test_the_script_of_the_repository_trains_a_job_through_slurm(
    embedded_backend: Backend, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preempted start is requeued by Slurm; its job continues in it from a checkpoint."""
    backend = embedded_backend
    job_id = backend.add_job(FakeTrainer(steps=400, step_seconds=0.02, checkpoint_every=10))
    names = ("DATABASE_URL", "STORAGE_URL", "PYTHONPATH", "FALQON_TRAINER_COMMAND")
    environment = backend.environment()
    lines = [f"{name}='{environment[name]}'\n" for name in (*names, "FALQON_DEVICE")]
    (tmp_path / "falqon.env").write_text("".join([*lines, "FALQON_STOP_GRACE=PT30S\n"]))
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("FALQON_ENV", str(tmp_path / "falqon.env"))
    falqon = shutil.which("falqon")
    assert falqon is not None
    monkeypatch.chdir(tmp_path)
    dispatcher = Dispatcher(
        backend.database, Slurm(ROOT / "deploy" / "worker.sbatch"), poll_seconds=1
    )
    dispatcher.tick()
    wait_for(lambda: backend.checkpoints(job_id), SECONDS, "a checkpoint")
    ((number, _, name),) = rows_of(cluster.environment)
    assert name == f"falqon-{job_id}"
    cluster.ask("scontrol", "requeue", number)
    wait_for(lambda: backend.job(job_id).status == JobStatus.QUEUED, SECONDS, "a released job")
    dispatcher.tick()
    assert [row[2] for row in rows_of(cluster.environment)] == [name]
    # Slurm lets what it requeued wait for two minutes.
    begin = ("scontrol", "update", f"JobId={number}", "StartTime=now")
    begins = (JobStatus.RUNNING, JobStatus.SUCCEEDED)
    wait_for(
        lambda: cluster.ask(*begin) or backend.job(job_id).status in begins,
        SECONDS,
        "a second attempt",
        every_seconds=1,
    )
    backend.wait_for_status(job_id, JobStatus.SUCCEEDED, seconds=240)
    wait_for(lambda: not rows_of(cluster.environment), SECONDS, "the end of the worker")
    first, second = backend.attempts(job_id)
    assert (first.outcome, first.error_code) == ("released", None)
    assert second.outcome == JobStatus.SUCCEEDED
    assert second.start_step


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--to", "slurm", "--script", "nowhere.sbatch"], "there is no file nowhere.sbatch"),
        (["--to", "slurm", "--server", "http://x"], "does not go with --to slurm"),
        (["--to", "slurm", "--account", "{team}"], "may hold {project}"),
        (["--to", "slurm"], "is not on the PATH"),
        (["--to", "kueue", "--account", "a"], "does not go with --to kueue"),
        (["--to", "kueue"], "needs --queue-name"),
        (["--to", "kueue", "--queue-name", "q"], "not in a pod of Kubernetes"),
        (["--to", "kueue", "--queue-name", "q", "--server", "x"], "is no address"),
        (["--to", "celery"], "Invalid value"),
    ],
)
def test_options_that_cannot_work_are_refused(
    options: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.chdir(ROOT)
    refused = CliRunner().invoke(app, ["dispatch", *options])
    assert refused.exit_code == 2
    assert reason in " ".join(refused.output.replace("│", "").split())
