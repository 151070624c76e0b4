"""200 workers on a Postgres with `max_connections = 100`: directly, and behind PgBouncer.

    python -m benchmarks.pooled_workers [--real 200] [--others 0]

Needs the program pgbouncer. The `real` ones are worker processes as `falqon worker` starts them,
with a trainer without a model. The others, for a machine that has no room for so many processes,
are threads: each holds two connections, as a worker does, takes one job, renews and relays at the
pace of the defaults, ends it, and then polls. There is a job for each.
"""

import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.base import migrate
from app.base.database import Database
from app.base.settings import Settings
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Attempt, Job, JobStatus
from app.workers import service as workers
from benchmarks import parser_of
from benchmarks.api.report import machine
from tests.support.backend import Backend
from tests.support.pgbouncer import pgbouncer, url_of
from tests.support.postgres import PostgresServer

MAX_CONNECTIONS, POOL = 100, 80  # of Postgres, and of PgBouncer to it
SLOTS = 50  # of a machine, and so its workers
OWN_CONNECTIONS = 2  # connections of a worker
PACE = ("lease", "heartbeat", "poll")
POLL_SECONDS, RELAY_SECONDS = 10.0, 5.0  # of the defaults
RELAYS, EVENTS = 6, 5  # of a job, of a relay
LEASE_SECONDS = 600.0
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Most:
    """The highest counts that were seen."""

    to_postgres: int = 0
    to_pgbouncer: int = 0
    waiting: int = 0  # of these, for a connection
    wait_seconds: float = 0.0

    def or_more(self, other: "Most") -> "Most":
        return Most(
            max(self.to_postgres, other.to_postgres),
            max(self.to_pgbouncer, other.to_pgbouncer),
            max(self.waiting, other.waiting),
            max(self.wait_seconds, other.wait_seconds),
        )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--real", type=int, default=200)
    parser.add_argument("--others", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fq-pool-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres may run as another user
        server = PostgresServer(folder / "pg", max_connections=MAX_CONNECTIONS)
        try:
            print(machine())
            url = server.create_database("workers")
            connected = count_connected(url, arguments.real + arguments.others)
            print(f"directly: {connected} workers got their connections, then: too many")
            with pgbouncer(server, folder, POOL) as pool:
                measure(url, pool, folder, arguments.real, arguments.others)
        finally:
            server.stop()


def count_connected(url: str, num_workers: int) -> int:
    """Count the workers that open their connections before the server refuses one."""
    connected = 0
    with ExitStack() as stack:
        for _ in range(num_workers):
            database = Database(url)
            stack.callback(database.dispose)
            try:
                for _ in range(OWN_CONNECTIONS):
                    stack.enter_context(database.engine.connect())
            except OperationalError:
                break
            connected += 1
    return connected


def measure(url: str, pool: Path, folder: Path, num_real: int, num_others: int) -> None:
    direct = Database(url)
    migrate.upgrade(direct)
    pooled = f"{url_of(pool, direct.engine.url.database)}&pgbouncer=true"
    backend = Backend(folder / "data", direct, pooled)
    pace = {name: Settings.model_fields[name].default for name in PACE}
    backend.settings = backend.settings.model_copy(update=pace)
    num_jobs = num_real + num_others
    for _ in range(num_jobs):
        backend.add_job()
    has_ended = threading.Event()
    others = [
        threading.Thread(target=work, args=(pooled, f"other-{number}", has_ended))
        for number in range(num_others)
    ]
    started = time.monotonic()
    try:
        for other in others:
            other.start()
        for number in range(num_real):
            locks = folder / f"machine-{number // SLOTS}"  # of the slots that are taken
            locks.mkdir(exist_ok=True)
            slots = {"FALQON_SLOTS": str(SLOTS), "FALQON_NUM_THREADS": str(SLOTS)}
            backend.start_worker(**slots, TMPDIR=str(locks))
        most = watch(direct, pool, num_jobs)
    finally:
        has_ended.set()
        for other in others:
            other.join()
        backend.close()
    seconds = time.monotonic() - started
    print(
        f"behind PgBouncer: {num_real} real workers and {num_others} others, {num_jobs} jobs in "
        f"{seconds:.0f} s; most connections: {most.to_pgbouncer} to PgBouncer, {most.to_postgres} "
        f"to Postgres of {MAX_CONNECTIONS}; most that waited for one: {most.waiting}, for "
        f"{most.wait_seconds:.2f} s"
    )
    with direct.read() as session:
        statuses = select(Job.status, func.count()).group_by(Job.status)
        attempts = select(Attempt.outcome, func.count()).group_by(Attempt.outcome)
        print(f"jobs: {dict(session.execute(statuses).all())}")
        print(f"attempts: {dict(session.execute(attempts).all())}")
    direct.dispose()


def watch(direct: Database, pool: Path, num_jobs: int) -> Most:
    """Look each half second until all jobs have ended."""
    most = Most()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with direct.read() as session:
            ended = session.scalar(select(func.count()).where(Job.status == JobStatus.SUCCEEDED))
            most = most.or_more(look(session.connection(), pool))
        if ended == num_jobs:
            break
        time.sleep(0.5)
    return most


def look(connection: Connection, pool: Path) -> Most:
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    to_postgres = connection.exec_driver_sql(clients).scalar_one()
    with psycopg.connect(
        url_of(pool, "pgbouncer"), autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as admin:
        cursor = admin.execute("SHOW POOLS")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        pools = [dict(zip(names, row, strict=True)) for row in cursor]
    sums: Counter[str] = Counter()
    for each in pools:
        if each["database"] != "pgbouncer":
            sums.update({name: int(each[name]) for name in ("cl_active", "cl_waiting")})
    wait = max(int(each["maxwait"]) + int(each["maxwait_us"]) / 1e6 for each in pools)
    return Most(to_postgres, sums["cl_active"] + sums["cl_waiting"], sums["cl_waiting"], wait)


def work(url: str, owner: str, has_ended: threading.Event) -> None:
    """Hold what a worker holds, execute one job, and poll until all have ended."""
    database = Database(url)
    with ExitStack() as stack:
        stack.callback(database.dispose)
        for _ in range(OWN_CONNECTIONS):
            stack.enter_context(database.engine.connect()).rollback()
        job = None
        while job is None and not has_ended.is_set():
            try:
                job = claim(database, owner)
            except SQLAlchemyError as error:
                print(f"{owner}: {error}")
            if job is None:
                has_ended.wait(POLL_SECONDS)
        if job is not None:
            execute(database, Claim(job.id, job.attempt, owner), has_ended)
        while not has_ended.wait(POLL_SECONDS):
            claim(database, owner)


def claim(database: Database, owner: str) -> Job | None:
    with database.transaction() as session:
        workers.mark_seen(session, owner, "cpu", 1)
        return claims.claim(
            session, owner=owner, device="cpu", num_devices=1, lease_seconds=LEASE_SECONDS
        )


def execute(database: Database, mine: Claim, has_ended: threading.Event) -> None:
    for number in range(RELAYS):
        has_ended.wait(RELAY_SECONDS)
        with database.transaction() as session:
            claims.renew(session, mine, LEASE_SECONDS)
        steps = [NewEvent("step", type="metrics", data={"step": n}) for n in range(EVENTS)]
        with database.transaction() as session:
            claims.append_trainer_events(session, mine, steps, number * EVENTS)
    with database.transaction() as session:
        claims.finish(session, mine, JobStatus.SUCCEEDED, NewEvent("done"))


if __name__ == "__main__":
    main()
