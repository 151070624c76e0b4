"""A small service without its API: database, storage, one base model, jobs on the fake trainer,
workers in this or another process.
"""

import json
import os
import sys
import threading
from datetime import timedelta
from pathlib import Path

from redis import Redis
from sqlalchemy import update

from app.attempts.gateway import DirectGateway
from app.base.database import Database
from app.base.ids import new_id
from app.base.settings import Settings
from app.base.storage import Storage, keys
from app.garbage import installation
from app.models import (
    DEFAULT_PROJECT_ID,
    Artifact,
    Desired,
    File,
    FileStatus,
    Job,
    JobStatus,
    Model,
    Project,
)
from app.models.job_request import JobRequest
from falqon_core.contract.config import Recipe
from tests.support.api import TINY_CONFIG
from tests.support.fake_trainer import FakeTrainer
from tests.support.forks import ROOT, Fork
from tests.support.records import Records
from tests.support.waiting import wait_for
from worker.attempt.supervisor import Supervisor
from worker.context import WorkerContext
from worker.machine.gpu import Machine

FAKE_TRAINER = [sys.executable, str(ROOT / "tests" / "support" / "fake_trainer.py")]
BASE_MODEL = "fake/base"
CPU = Machine("cpu", 2)
DURATIONS = ("lease", "heartbeat", "poll", "stop_grace", "hang", "retry_delay")


class Backend(Records):
    def __init__(
        self, folder: Path, database: Database, database_url: str, storage_url: str = ""
    ) -> None:
        self.settings = Settings(
            data_dir=folder,
            database_url=database_url,
            storage_url=storage_url,
            # Long enough that a busy machine does not take a healthy worker for a dead one.
            lease=timedelta(seconds=5),
            heartbeat=timedelta(seconds=0.3),
            poll=timedelta(seconds=0.5),
            stop_grace=timedelta(seconds=30),
            retry_delay=timedelta(0),  # what waits after a loss is the subject of few tests
            trainer_command=FAKE_TRAINER,
            device="cpu",
            num_threads=2,
            calibrate=False,
        )
        super().__init__(database, Storage(self.settings.resolved_storage_url))
        installation.mark(database, self.storage)
        self._children: list[Fork] = []
        with database.read() as session:
            is_new = session.get(Project, DEFAULT_PROJECT_ID) is None
        if is_new:
            self._seed()

    def _seed(self) -> None:
        """Add the project and a base model."""
        with self.database.transaction() as session:
            session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
            session.add(Model(id=BASE_MODEL, config=TINY_CONFIG, bytes=1))
            session.flush()
            for name, content in (
                ("config.json", json.dumps({"model_type": "fake"} | TINY_CONFIG).encode()),
                ("model.safetensors", b"weights"),
                ("tokenizer.json", b"{}"),
            ):
                key = keys.base_model_file(BASE_MODEL, name)
                stored = self.storage.put(key, [content])
                session.add(
                    Artifact(
                        model_id=BASE_MODEL,
                        name=name,
                        bytes=stored.bytes,
                        sha256=stored.sha256,
                        storage_key=key,
                    )
                )

    def add_job(self, fake: FakeTrainer | None = None) -> str:
        job_id = new_id("ftjob-")
        file_id = new_id("file-")
        key = keys.file_content(DEFAULT_PROJECT_ID, file_id)
        record = json.dumps({"text": (fake or FakeTrainer()).model_dump_json()}) + "\n"
        stored = self.storage.put(key, [record.encode()])
        with self.database.transaction() as session:
            session.add(
                File(
                    id=file_id,
                    project_id=DEFAULT_PROJECT_ID,
                    filename="fake.jsonl",
                    purpose="fine-tune",
                    bytes=stored.bytes,
                    sha256=stored.sha256,
                    storage_key=key,
                    status=FileStatus.PROCESSED,
                )
            )
            session.flush()
            session.add(
                Job(
                    id=job_id,
                    project_id=DEFAULT_PROJECT_ID,
                    status=JobStatus.QUEUED,
                    desired=Desired.RUN,
                    base_model_id=BASE_MODEL,
                    training_file_id=file_id,
                    requested=JobRequest(model=BASE_MODEL, training_file=file_id),
                    recipe=Recipe().resolved(1),
                )
            )
        return job_id

    def context(
        self, shutting_down: threading.Event | None = None, **settings: object
    ) -> WorkerContext:
        """Return what a worker in this process works with."""
        return WorkerContext(
            self.settings.model_copy(update=settings),
            self.database,
            self.storage,
            new_id("worker-"),
            shutting_down or threading.Event(),
        )

    def supervisor(
        self, shutting_down: threading.Event | None = None, **settings: object
    ) -> Supervisor:
        return supervise(self.context(shutting_down, **settings))

    def damage(self, key: str) -> None:
        """What no writer can do."""
        path = self.storage.local_path(key)
        assert path is not None
        path.write_bytes(b"x" * 64)

    def set(self, job_id: str, **values: object) -> None:
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(**values))

    def wait_for_status(self, job_id: str, *statuses: JobStatus, seconds: float = 30) -> Job:
        wait_for(
            lambda: self.job(job_id).status in statuses, seconds, f"{job_id} becomes {statuses}"
        )
        return self.job(job_id)

    def wait_for_step(self, job_id: str, step: int) -> None:
        wait_for(
            lambda: (progress := self.job(job_id).progress) is not None and progress.step >= step,
            what=f"{job_id} reaches step {step}",
        )

    def wait_for_checkpoint(self, job_id: str) -> None:
        wait_for(lambda: self.checkpoints(job_id), what="a checkpoint")

    def start_worker(self, queue: str = "gpu", **environment: str) -> Fork:
        output = self.settings.data_dir / "worker.log"
        self._children.append(
            Fork(_work, queue, environment=self.environment() | environment, output=output)
        )
        return self._children[-1]

    def environment(self) -> dict[str, str]:
        settings = self.settings
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": settings.resolved_database_url,
            "FALQON_DATA_DIR": str(settings.data_dir),
            "STORAGE_URL": settings.resolved_storage_url,
            "REDIS_URL": settings.redis_url,
            "FALQON_TRAINER_COMMAND": json.dumps(settings.trainer_command),
            "FALQON_DEVICE": "cpu",
            "FALQON_NUM_THREADS": "2",
            "FALQON_CALIBRATE": str(settings.calibrate),
            "FALQON_MAX_INFRA_FAILURES": str(settings.max_infra_failures),
            **{
                f"FALQON_{name.upper()}": f"PT{getattr(settings, name).total_seconds()}S"
                for name in DURATIONS
            },
        }

    def trainers(self) -> list[int]:
        """The trainer processes of this backend."""
        return processes("fake_trainer.py", str(self.settings.data_dir.resolve()))

    def close(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()


def direct_gateway(context: WorkerContext, redis: Redis | None = None) -> DirectGateway:
    """Without Redis: nobody answers there, and nobody needs to."""
    redis = redis or Redis.from_url("redis://127.0.0.1:1/0")
    return DirectGateway(context.settings, context.database, context.storage, redis, context.owner)


def supervise(context: WorkerContext, machine: Machine = CPU) -> Supervisor:
    gateway = direct_gateway(context)
    return Supervisor(context.settings, gateway, machine, context.shutting_down)


def _work(queue: str) -> None:
    from celery.bin.celery import celery

    options = [
        "-P",
        "threads",
        "-c",
        "1",
        "-Q",
        queue,
        "--without-gossip",
        "--without-mingle",
        "-n",
        f"{new_id('')}@test",
        "-l",
        "info",
    ]
    celery.main(["-A", "worker.entry.celery_app", "worker", *options], prog_name="celery")


def processes(*words: str) -> list[int]:
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if all(word in command for word in words) and state != "Z":
            pids.append(int(folder.name))
    return pids
