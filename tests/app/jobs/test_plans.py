"""What pages, streams and quotas ask of a project with many jobs is read from indexes."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.settings import Settings
from app.catalogue import repository as catalogue
from app.files import repository as files
from app.jobs import listing
from app.jobs import repository as jobs
from app.jobs.listing import ROWS, JobQuery
from app.metrics import collector as metrics
from app.models import DEFAULT_PROJECT_ID, Base, File, Job, JobStatus, Model
from app.projects import repository as projects
from tests.support.backend import Backend
from tests.support.plans import plans
from tests.support.postgres import PostgresServer
from tests.support.schema import migrate_database

NUM_JOBS = 6_000  # so many that a plan for few does not pay
PROJECT = DEFAULT_PROJECT_ID
LARGE_TABLES = {"jobs", "models", "files", "checkpoints", "events"}
FILE = "file-0100"

Ask = Callable[[Session], object]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def large(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Two projects share the jobs; each job has a model, a file and a checkpoint."""
    url = postgres.create_database(f"large_{next(_numbers)}")
    database = Database(url)
    migrate_database(database)
    fill(database, Backend(Path(tmp_path_factory.mktemp("large")), database, url))
    yield database
    database.dispose()


def fill(database: Database, backend: Backend) -> None:
    template = backend.add_job()
    number = "lpad(n::text, 4, '0')"
    own = {"project_id": f"CASE WHEN n % 2 = 0 THEN '{PROJECT}' ELSE 'proj_other' END"}
    with database.engine.begin() as connection:
        other = (
            "(id, name, created_at, weight, virtual_time, usage_device_seconds) "
            "VALUES ('proj_other', 'o', now(), 1, 0, 0)"
        )
        connection.execute(text(f"INSERT INTO projects {other}"))
        insert(connection, File, own | {"id": f"'file-' || {number}"})
        used = {
            "training_file_id": f"'file-' || {number}",
            "status": f"'{JobStatus.SUCCEEDED}'",
            "attempt": "1",
            "last_event_seq": "100",
        }
        insert(connection, Job, own | used | {"id": f"'ftjob-' || {number}"})
        ids = {
            "id": f"'ft:' || {number}",
            "project_id": own["project_id"],
            "job_id": f"'ftjob-' || {number}",
        }
        insert(connection, Model, ids)
        checkpoint = own | {
            "id": f"'ftckpt_' || {number}",
            "job_id": f"'ftjob-' || {number}",
            "attempt": "1",
            "step": "1",
            "bytes": "1",
        }
        texts = {
            "storage_prefix": f"'p' || {number}",
            "manifest_sha256": "''",
            "metrics": "'{}'",
            "created_at": "now()",
        }
        names = ", ".join(checkpoint | texts)
        values = ", ".join((checkpoint | texts).values())
        connection.execute(
            text(
                f"INSERT INTO checkpoints ({names}) SELECT {values} FROM generate_series(1, "
                f"{NUM_JOBS}) n"
            )
        )
        connection.execute(
            text(
                "INSERT INTO events (job_id, seq, attempt, level, type, message, created_at) "
                "SELECT id, last_event_seq, 1, 'info', 'message', '', now() FROM jobs "
                "WHERE last_event_seq > 0 ON CONFLICT DO NOTHING"
            )
        )
    backend.set(template, status=JobStatus.PAUSED)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def insert(connection: Any, kind: type[Base], values: dict[str, str]) -> None:
    """Copies of the one row there is, or of the base model, with other values."""
    columns = [column.name for column in kind.__table__.columns]
    chosen = ", ".join(values.get(name, f"one.{name}") for name in columns)
    source = f"(SELECT * FROM {kind.__tablename__} LIMIT 1) one, generate_series(1, {NUM_JOBS}) n"
    connection.execute(
        text(
            f"INSERT INTO {kind.__tablename__} ({', '.join(columns)}) SELECT {chosen} FROM {source}"
        )
    )


def find(**filters: Any) -> Ask:
    return lambda session: listing.find_page(session, PROJECT, JobQuery(**filters))


LOOKS: dict[str, Ask] = {
    "jobs page": find(),
    "jobs page, oldest first": find(descending=False),
    "jobs page, one status": find(status=JobStatus.SUCCEEDED),
    "jobs page, by status": find(sort="status", descending=False),
    "jobs page, by model": find(sort="model"),
    "last page": find(page=NUM_JOBS // 2 // ROWS),
    "streams": lambda session: listing.states(session, [PROJECT, "proj_other"]),
    "Data page": lambda session: jobs.num_using(
        session, PROJECT, [f"file-{number:04}" for number in range(50)]
    ),
    "jobs of a file": lambda session: jobs.list_using(session, PROJECT, FILE, limit=20),
    "a file in use": lambda session: files.find_user(session, PROJECT, FILE),
    "quota": lambda session: projects.storage_bytes(session, PROJECT),
    "results": lambda session: files.newest_first(
        session,
        PROJECT,
        after=None,
        limit=50,
        order="desc",
        purpose="fine-tune-results",
        idempotency_key=None,
    ),
    "purposes of files": lambda session: files.other_purposes(session, PROJECT),
    "search of jobs": lambda session: listing.search(session, PROJECT, "nowhere", limit=10),
    "search of files": lambda session: files.search(session, PROJECT, "nowhere", limit=10),
    "search of models": lambda session: catalogue.search(session, PROJECT, "nowhere", limit=10),
    "list of models": lambda session: catalogue.tally(session, PROJECT),
    "models page": lambda session: catalogue.newest(session, PROJECT, limit=200),
    "metrics": lambda session: [*metrics.jobs_of(session), *metrics.leases_of(session, Settings())],
}


@pytest.mark.parametrize("name", LOOKS)
def test_no_page_reads_a_large_table_from_end_to_end(large: Database, name: str) -> None:
    for plan in plans(large, LOOKS[name]):
        whole = [
            relation
            for node, relation in plan.scans
            if node == "Seq Scan" and relation in LARGE_TABLES
        ]
        assert not whole, f"{name}: {plan.statement}"


@pytest.mark.parametrize(
    "name",
    [
        "jobs page",
        "jobs page, oldest first",
        "jobs page, by status",
        "jobs page, by model",
        "models page",
    ],
)
def test_rows_come_from_an_index_in_their_order(large: Database, name: str) -> None:
    assert not any(plan.sorts for plan in plans(large, LOOKS[name]))


def test_the_rows_that_streams_read_each_second_do_not_grow(large: Database) -> None:
    assert max(plan.most_rows for plan in plans(large, LOOKS["streams"])) <= 5


def test_jobs_of_a_status_are_counted_up_to_a_limit(
    large: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_COUNTED", 100)
    assert max(plan.most_rows for plan in plans(large, LOOKS["jobs page"])) <= 101
    with large.read() as session:
        page = listing.find_page(session, PROJECT, JobQuery())
        last, beyond = (
            listing.find_page(session, PROJECT, JobQuery(page=number)) for number in (61, 62)
        )
    assert page.by_status == {JobStatus.SUCCEEDED: 101, JobStatus.PAUSED: 1}
    assert (page.is_counted, page.has_more, len(page.jobs)) == (False, True, ROWS)
    assert (len(last.jobs), last.has_more, beyond.jobs) == (1, False, [])


def test_curves_are_picked_event_by_event(large: Database) -> None:
    """Of jobs with thousands of them, without reading the others."""
    with large.read() as session:
        jobs = listing.find_page(session, PROJECT, JobQuery()).jobs[1:6]
    with large.engine.begin() as connection:
        values = (
            "SELECT id, n, 1, 'info', 'metrics', '', jsonb_build_object('step', n, 'train_loss', "
            "1.5), now()"
        )
        events = (
            f"INSERT INTO events {values} FROM jobs, generate_series(1, 5000) n WHERE id = "
            "ANY(:ids) ON CONFLICT DO NOTHING"
        )
        connection.execute(text(events), {"ids": [job.id for job in jobs]})
        connection.execute(text("ANALYZE events"))
    plan, *_ = plans(large, lambda session: listing.sparklines(session, jobs))
    assert plan.most_rows <= len(jobs) * listing.SPARKLINE_POINTS
    # They have ended: the next page asks for none of them.
    assert plans(large, lambda session: listing.sparklines(session, jobs)) == []
