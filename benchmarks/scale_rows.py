"""The rows of `benchmarks/scale.py`: an installation that has been in use for long, by bulk SQL.

A job came every ten seconds until now. Three of five are of one project, the others of 49. The
newest 200 run, 200 of each of the 50 projects wait, all others have ended, with a model. One that
has ended has a long curve.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from app.auth import secrets
from app.base.database import Database
from app.models import (
    DEFAULT_PROJECT_ID,
    ApiKey,
    DeliveryStatus,
    Desired,
    File,
    FileStatus,
    Job,
    JobStatus,
    Model,
    OperationStatus,
    Project,
    Scope,
    WebhookEndpoint,
)
from app.models.event import WINDOW
from app.models.job_request import JobRequest
from app.models.study_request import StudyRequest
from benchmarks.api import rows
from benchmarks.scale_columns import (
    BASE_MODEL,
    KEYS,
    RARE_KEY,
    RUNNING,
    TEAMS,
    Scale,
    chunk_of,
    tables_of,
)
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Cost, Estimate, Range
from falqon_core.records.file_check import FileReport

TEMPLATE = "ftjob-template"
KEY, SECRET = "key-admin", "an-admin-of-the-installation"
READER, READER_SECRET = "key-reader", "a-reader-of-the-large-project"
ENDPOINT = "we-large"
SECONDS_APART = 10  # jobs came
ORPHANS = 5_000
DELIVERIES_KEPT = "30 days"
CURVE = 4_400  # events of the longest job, in whole chunks
# What a bulk load need not ask for each row: whether the row that it names exists.
UNCHECKED = (
    "SET LOCAL session_replication_role = replica",
    "SET LOCAL work_mem = '256MB'",
    "SET LOCAL maintenance_work_mem = '1GB'",
)
INDEXES = """
    SELECT indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid::regclass::text = ANY(:tables)
      AND indexrelid NOT IN (SELECT conindid FROM pg_constraint)
"""
ESTIMATE = Estimate(
    device="cpu",
    num_devices=1,
    num_records=100,
    tokens_per_epoch=50_000,
    trained_tokens=100_000,
    steps=100,
    memory_bytes=1,
    fits=True,
    seconds=Range(low=50.0, expected=60.0, high=80.0),
    overhead_seconds=3.0,
    cost=Cost(low="1", expected="1", high="1", usd_per_device_hour="1", price_source="table"),
    basis="measured",
    n=50,
    tokens_per_second=5_000.0,
    tokens_basis="counted",
    explanation="",
)
LONGEST = "UPDATE jobs SET last_event_seq = :last, suffix = 'longest' WHERE id = :job_id"
CHOSEN_IDS = f"""
    SELECT max(id) FILTER (WHERE status = '{JobStatus.SUCCEEDED}'),
           max(id) FILTER (WHERE status = '{JobStatus.RUNNING}'),
           min(id) FILTER (WHERE status = '{JobStatus.QUEUED}'), max(fine_tuned_model_id)
    FROM jobs WHERE project_id = '{DEFAULT_PROJECT_ID}' AND id <> '{TEMPLATE}'
"""
MIDDLE = f"""
    SELECT id FROM jobs WHERE project_id = '{DEFAULT_PROJECT_ID}' AND status = '{JobStatus.FAILED}'
    ORDER BY id OFFSET :number LIMIT 1
"""
CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
REPORT = FileReport(shape="text", num_records=100, num_characters=100_000)
STUDY = StudyRequest(model=BASE_MODEL, training_file="file-0").model_dump_json(exclude_unset=True)
FEW = f"""
    INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, storage_key, status,
                       report, created_at)
    SELECT 'file-' || i, {{project}}, 'data-' || i || '.jsonl', 'fine-tune', 1000, md5(i::text),
           'files/' || i, '{FileStatus.PROCESSED}', CAST(:report AS jsonb), now()
    FROM generate_series(1, CAST(:files AS int)) i;
    INSERT INTO file_checks (id, project_id, file_id, status, attempts, created_at)
    SELECT 'check-' || i, {{project}}, 'file-' || i, '{OperationStatus.COMPLETED}', 1, now()
    FROM generate_series(1, CAST(:files AS int)) i;
    INSERT INTO workers (id, device, num_devices, max_gpus, seen_at, created_at)
    SELECT 'machine-' || i / 8 || '-' || i, 'cpu', 1, 1, now() + interval '1 day', now()
    FROM generate_series(1, CAST(:workers AS int)) i;
    INSERT INTO orphans (storage_key, due_at, deleting)
    SELECT 'orphans/' || i, now() + interval '30 minutes', false
    FROM generate_series(1, {ORPHANS}) i;
    INSERT INTO api_keys (id, project_id, name, scope, secret_sha256, created_at)
    SELECT 'key-' || i, '{DEFAULT_PROJECT_ID}', 'key ' || i, '{Scope.WRITE}', md5(i::text), now()
    FROM generate_series(0, {KEYS - 1}) i;
    INSERT INTO studies (id, project_id, requested, created_at)
    SELECT 'study-' || i, '{DEFAULT_PROJECT_ID}', CAST(:study AS jsonb), now()
    FROM generate_series(0, CAST(:studies AS int)) i;
"""
COLLECTED = (
    "UPDATE installation SET surveyed_at = now(), collected_at = now() - interval '90 minutes'"
)
DELIVERIES = f"""
    INSERT INTO webhook_deliveries (id, endpoint_id, event_id, event_type, event_at, job_id, status,
                                    attempts, created_at)
    SELECT 'wd-' || right(id, 20), '{ENDPOINT}', 'evt-' || i, 'fine_tuning.job.succeeded', at, id,
           '{DeliveryStatus.DELIVERED}', 1, at
    FROM made WHERE i % 5 < 3 AND at > now() - interval '{DELIVERIES_KEPT}'
"""


@dataclass(frozen=True, slots=True)
class FilledTables:
    """What is in the large project, most by its id."""

    longest: str  # of the jobs that have ended
    running: str
    owner: str  # of the running one
    queued: str
    middle: str
    model: str
    file: str
    storage_key: str  # of that file
    unused: str  # file
    study: str
    week_ago: int  # in seconds
    last_week: str  # a day
    endpoint: str = ENDPOINT
    rare_key: str = RARE_KEY

    @property
    def tail(self) -> str:
        """A part of the id of a job and of its model."""
        return self.longest[-8:]


def fill(database: Database, scale: Scale) -> FilledTables:
    with database.transaction() as session:
        add_template(session)
    few = {
        "files": scale.files,
        "workers": RUNNING,
        "studies": scale.studies,
        "study": STUDY,
        "report": REPORT.model_dump_json(),
    }
    with database.engine.begin() as connection:
        for statement in UNCHECKED:
            connection.execute(text(statement))
        for statement in FEW.format(project=scale.project).split(";")[:-1]:
            connection.execute(text(statement), few)
        new_jobs = {"jobs": scale.jobs, "apart": SECONDS_APART}
        connection.execute(text(rows.NEW_JOBS), new_jobs)
        connection.execute(text("ANALYZE made"))
        tables = list(tables_of(scale))
        with _without_indexes(connection, [table.__tablename__ for table, _, _ in tables]):
            for table, values, copies in tables:
                rows.insert_copies(connection, TEMPLATE, table, values, copies)
        connection.execute(text(DELIVERIES))
        connection.execute(text(COLLECTED))
        longest = connection.execute(text(CHOSEN_IDS)).one()[0]
        connection.execute(text(LONGEST), {"job_id": longest, "last": CURVE})
    with database.transaction() as session:
        session.add_all(
            chunk_of(longest, first + 1, first + WINDOW) for first in range(WINDOW, CURVE, WINDOW)
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum would, a minute later
    return choose(database, scale)


@contextmanager
def _without_indexes(connection: Connection, tables: list[str]) -> Iterator[None]:
    """Make the indexes of these tables anew, which takes less than to keep them."""
    indexes = connection.execute(text(INDEXES), {"tables": tables}).all()
    for name, _ in indexes:
        connection.execute(text(f"DROP INDEX {name}"))
    yield
    for _, definition in indexes:
        connection.execute(text(definition))


def choose(database: Database, scale: Scale) -> FilledTables:
    """Choose what is asked for of a database that is filled."""
    week_ago = datetime.now(UTC) - timedelta(days=6)
    with database.read() as session:
        longest, running, queued, model = session.execute(text(CHOSEN_IDS)).one()
        job = session.get_one(Job, longest)
        owner = session.get_one(Job, running).lease_owner
        assert owner is not None
        return FilledTables(
            longest,
            running,
            owner,
            queued,
            session.scalars(text(MIDDLE), {"number": scale.ended // 80}).one(),
            model,
            job.training_file_id,
            session.get_one(File, job.training_file_id).storage_key,
            "file-unused",
            f"study-{scale.studies // 2}",
            int(week_ago.timestamp()),
            f"{week_ago:%Y-%m-%d}",
        )


def add_template(session: Session) -> None:
    """Add what every job has in common, with the projects and a key of the large one."""
    session.add(Project(id=DEFAULT_PROJECT_ID, name="large"))
    session.add_all(Project(id=f"proj_{i:03}", name=f"project {i}") for i in range(1, TEAMS))
    session.add(Model(id=BASE_MODEL, config=CONFIG, bytes=1))
    session.flush()
    session.add_all(
        ApiKey(
            id=id_,
            project_id=DEFAULT_PROJECT_ID,
            name=id_,
            scope=scope,
            secret_sha256=secrets.digest(secret),
        )
        for id_, secret, scope in (
            (KEY, SECRET, Scope.ADMIN),
            (READER, READER_SECRET, Scope.READ),
            (RARE_KEY, RARE_KEY, Scope.WRITE),
        )
    )
    session.add(
        WebhookEndpoint(
            id=ENDPOINT,
            project_id=DEFAULT_PROJECT_ID,
            name="hook",
            url="https://example.com",
            event_types=["fine_tuning.job.succeeded"],
            secret_hint="",
        )
    )
    session.add_all(
        File(
            id=id_,
            project_id=DEFAULT_PROJECT_ID,
            filename="data.jsonl",
            purpose="fine-tune",
            bytes=1_000,
            sha256="0",
            storage_key=f"files/{id_}",
            status=FileStatus.PROCESSED,
            report=REPORT,
        )
        for id_ in ("file-0", "file-unused")
    )
    session.flush()
    session.add(
        Job(
            id=TEMPLATE,
            project_id=DEFAULT_PROJECT_ID,
            status=JobStatus.CANCELLED,
            desired=Desired.RUN,
            base_model_id=BASE_MODEL,
            training_file_id="file-0",
            requested=JobRequest(model=BASE_MODEL, training_file="file-0"),
            recipe=Recipe().resolved(100),
            estimate=ESTIMATE,
        )
    )
