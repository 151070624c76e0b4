"""A fleet whose connections PgBouncer shares between transactions, as docs/network.md says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import OperationalError

from app.base import migrate
from app.base.database import Database
from app.jobs import claims, repository
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Desired, Job, JobStatus, Model, Project
from app.models.job_request import JobRequest
from app.workers import service as workers
from tests.support.pgbouncer import PROGRAM, pgbouncer, url_of
from tests.support.postgres import PostgresServer
from tests.support.rows import checked_file

CONNECTIONS, SERVER_CONNECTIONS = 200, 10  # to PgBouncer, and from it
WORKERS = 4  # that do something with theirs
ROUNDS = 7  # a driver prepares what it has sent five times

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


@pytest.fixture
def direct(postgres: PostgresServer) -> Iterator[Database]:
    """A database with a job for each worker, and the timeouts that PgBouncer does not pass on."""
    database = Database(postgres.create_database("pooled"))
    name = database.engine.url.database
    with closing(database.engine.raw_connection()) as connection:
        for setting in ("idle_in_transaction_session_timeout = '25s'", "lock_timeout = '10s'"):
            connection.cursor().execute(f'ALTER DATABASE "{name}" SET {setting}')
        connection.commit()
    migrate.upgrade(database)
    job = {"project_id": "p", "status": JobStatus.QUEUED, "desired": Desired.RUN}
    job |= {"base_model_id": "tiny", "training_file_id": "f"}
    request = JobRequest(model="tiny", training_file="f")
    with database.transaction() as session:
        session.add_all([Project(id="p", name="p"), Model(id="tiny", config={}, bytes=1)])
        session.flush()
        session.add(checked_file("f", "p"))
        session.flush()
        ids = [f"ftjob-{number}" for number in range(WORKERS)]
        session.execute(insert(Job), [{"id": id_, "requested": request} | job for id_ in ids])
    yield database
    database.dispose()


@pytest.fixture
def pooled_url(postgres: PostgresServer, direct: Database, short_tmp: Path) -> Iterator[str]:
    """Where PgBouncer answers for that database."""
    with pgbouncer(postgres, short_tmp, SERVER_CONNECTIONS) as folder:
        yield url_of(folder, direct.engine.url.database)


def execute(url: str, owner: str) -> str:
    """Do as a worker does: look for a job, keep it, relay events, end it."""
    database = Database(url)
    job = None
    while job is None:  # one that somebody else has just taken is passed over
        with database.transaction() as session:
            workers.mark_seen(session, owner, "cpu", 1)
            job = claims.claim(session, owner=owner, device="cpu", num_devices=1, lease_seconds=600)
    claim = Claim(job.id, job.attempt, owner)
    for number in range(ROUNDS):
        with database.transaction() as session:
            assert claims.renew(session, claim, 600) is Desired.RUN
        with database.transaction() as session:
            step = NewEvent(f"Step {number}", type="metrics", data={"step": number})
            assert claims.append_trainer_events(session, claim, [step], number)
    with database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
    with database.read() as session:
        timeouts = "idle_in_transaction_session_timeout", "lock_timeout"
        values = [session.scalar(text(f"SHOW {name}")) for name in timeouts]
    assert values == ["25s", "10s"]
    database.dispose()
    return job.id


def test_workers_and_two_hundred_clients_share_a_few_connections(
    direct: Database, pooled_url: str
) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(psycopg.connect(pooled_url, autocommit=True))
            connection.execute("SELECT 1")
        with ThreadPoolExecutor(WORKERS) as pool:
            url = f"{pooled_url}&pgbouncer=true"
            job_ids = list(
                pool.map(execute, [url] * WORKERS, [f"machine-{n}" for n in range(WORKERS)])
            )
        direct.dispose()  # its own are not counted
        with direct.read() as session:
            servers = text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert 0 < session.scalars(servers).one() <= SERVER_CONNECTIONS
    assert sorted(job_ids) == [f"ftjob-{number}" for number in range(WORKERS)]
    with direct.read() as session:
        assert session.scalars(select(Job.status).distinct()).all() == [JobStatus.SUCCEEDED]
        steps = [len(list(repository.metrics(session, job_id))) for job_id in job_ids]
        assert steps == [ROUNDS] * WORKERS


def test_no_lock_of_a_migration_stays_with_a_shared_connection(
    direct: Database, pooled_url: str
) -> None:
    """Whoever migrates afterwards at the server's own address would wait for ten minutes."""
    database = Database(f"{pooled_url}&pgbouncer=true")
    try:
        migrate.upgrade(database)  # up to date, as for the commands of `falqon admin`
        with pytest.raises(migrate.CannotMigrate, match="own address"):
            migrate.one_at_a_time(database).__enter__()
    finally:
        database.dispose()
    with direct.read() as session:
        assert session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype='advisory'")) == 0


def test_a_url_of_pgbouncer_without_its_parameter_is_refused_at_once(pooled_url: str) -> None:
    database = Database(pooled_url)
    try:
        with pytest.raises(OperationalError, match="unsupported startup parameter"):
            database.engine.connect()
    finally:
        database.dispose()
