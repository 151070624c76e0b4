"""The rows of `benchmarks/scale.py`: an installation that has been in use for long, by bulk SQL.

Three of five jobs are of one project, the others of some forty. The newest run, those before them
wait, all others have ended, nine of ten of these with a model. One that has ended has a long curve.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.database import Database
from app.models import (
    DEFAULT_PROJECT_ID,
    ApiKey,
    Artifact,
    Attempt,
    Base,
    Checkpoint,
    Desired,
    Event,
    File,
    FileStatus,
    Job,
    JobMetadata,
    JobStatus,
    Model,
    OperationStatus,
    Project,
    Scope,
    Submission,
)
from app.models.job_request import JobRequest
from benchmarks.api import rows
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Actual

BASE_MODEL = "falqon-tiny"
TEMPLATE = "ftjob-template"
KEY = "key-of-the-large-project"
OTHERS = 37  # projects beside the large one
WAITING, RUNNING = 2_000, 200  # at most
CHECKPOINTS, ARTIFACTS = 2, 3  # of each job, of each model
FILES, WORKERS, ORPHANS = 2_000, 200, 5_000
FILES_OF_A_PAGE = 50
CURVE = 4_500  # events of the longest job
# What a bulk load need not ask for each row: whether the row that it names exists.
UNCHECKED = "SET LOCAL session_replication_role = replica"
ACTUAL = Actual(seconds=60.0, cost=None, ratio=1.0, inside_band=True)
PROJECT = (
    f"CASE WHEN i % 5 < 3 THEN '{DEFAULT_PROJECT_ID}' ELSE 'proj_' || lpad((i % {OTHERS})::text, "
    "3, '0') END"
)
MODEL_ID = "'ft:falqon-tiny:project:run:' || right(made.id, 12)"
METRICS = (
    "jsonb_build_object('step', n, 'train_loss', 1.5, 'learning_rate', 0.0001, 'grad_norm', 0.5, "
    "'tokens_per_second', 5000.0, 'train_mean_token_accuracy', 0.5)"
)
CURVE_EVENTS = f"""
    INSERT INTO events (job_id, seq, attempt, level, type, message, data, created_at)
    SELECT CAST(:job_id AS text), n, 1, 'info', 'metrics', 'Step ' || n, {METRICS},
           now()
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n
"""
LONGEST = "UPDATE jobs SET last_event_seq = :last, suffix = 'longest' WHERE id = :job_id"
CHOSEN_IDS = f"""
    SELECT max(id) FILTER (WHERE status = '{JobStatus.SUCCEEDED}'),
           max(id) FILTER (WHERE status = '{JobStatus.RUNNING}'), max(fine_tuned_model_id)
    FROM jobs WHERE project_id = '{DEFAULT_PROJECT_ID}' AND id <> '{TEMPLATE}'
"""
FEW = f"""
    INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, storage_key, status,
                       created_at)
    SELECT 'file-' || i, {PROJECT}, 'data.jsonl', 'fine-tune', 1000, md5(i::text), 'files/' || i,
           '{FileStatus.PROCESSED}', now() FROM generate_series(1, {FILES}) i;
    INSERT INTO file_checks (id, project_id, file_id, status, attempts, created_at)
    SELECT 'check-' || i, {PROJECT}, 'file-' || i, '{OperationStatus.COMPLETED}', 1, now()
    FROM generate_series(1, {FILES}) i;
    INSERT INTO workers (id, device, num_devices, max_gpus, seen_at, created_at)
    SELECT 'machine-' || i / 8 || '-' || i, 'cpu', 1, 1, now(), now()
    FROM generate_series(1, {WORKERS}) i;
    INSERT INTO orphans (storage_key, due_at, deleting)
    SELECT 'orphans/' || i, now() + interval '30 minutes', false
    FROM generate_series(1, {ORPHANS}) i;
"""


class Scale(NamedTuple):
    """How much of what grows."""

    jobs: int
    events: int

    @property
    def of_each_job(self) -> int:
        return max(1, self.events // self.jobs)

    @property
    def running(self) -> int:
        return min(RUNNING, self.jobs // 10)

    @property
    def live(self) -> int:
        return self.running + min(WAITING, self.jobs // 10)


class Filled(NamedTuple):
    """Ids of the large project."""

    longest: str
    running: str
    owner: str  # of the running one
    model: str
    file_ids: list[str]


def fill(database: Database, scale: Scale) -> Filled:
    with database.transaction() as session:
        _add_template(session)
    with database.engine.begin() as connection:
        connection.execute(text(UNCHECKED))
        for statement in FEW.split(";")[:-1]:
            connection.execute(text(statement))
        connection.execute(text(rows.NEW_JOBS), {"jobs": scale.jobs})
        connection.execute(text("ANALYZE made"))
        for table, values, copies in _of_jobs(scale):
            rows.insert_copies(connection, TEMPLATE, table, values, copies)
        longest, running, model = connection.execute(text(CHOSEN_IDS)).one()
        more = {"job_id": longest, "first": scale.of_each_job + 1, "last": CURVE}
        connection.execute(text(CURVE_EVENTS), more)
        connection.execute(text(LONGEST), {"job_id": longest, "last": CURVE})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum would, a minute later
    with database.read() as session:
        files = select(File.id).where(File.project_id == DEFAULT_PROJECT_ID).limit(FILES_OF_A_PAGE)
        owner = session.get_one(Job, running).lease_owner
        assert owner is not None
        return Filled(longest, running, owner, model, list(session.scalars(files)))


def _add_template(session: Session) -> None:
    """Add what every job has in common, with the projects and a key of the large one."""
    session.add(Project(id=DEFAULT_PROJECT_ID, name="large"))
    session.add_all(Project(id=f"proj_{i:03}", name=f"project {i}") for i in range(OTHERS))
    session.add(Model(id=BASE_MODEL, config={}, bytes=1))
    session.flush()
    session.add(
        ApiKey(
            id=KEY,
            project_id=DEFAULT_PROJECT_ID,
            name="key",
            scope=Scope.WRITE,
            secret_sha256="0" * 64,
        )
    )
    session.add(
        File(
            id="file-0",
            project_id=DEFAULT_PROJECT_ID,
            filename="data.jsonl",
            purpose="fine-tune",
            bytes=1_000,
            sha256="0",
            storage_key="files/0",
            status=FileStatus.PROCESSED,
        )
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
        )
    )


def _of_jobs(scale: Scale) -> Iterator[tuple[type[Base], dict[str, str], int]]:
    """Give the rows of each table: SQL by column, and how many each job has."""
    yield Job, _job(scale), 1
    pair = {"name": "'experiment'", "value": f"'exp-' || i % {rows.NUM_EXPERIMENTS}"}
    yield JobMetadata, pair | {"project_id": PROJECT}, 1
    request = {"key": "'key:' || i", "request_sha256": "md5(i::text)", "project_id": PROJECT}
    yield Submission, request, 1
    yield Attempt, _attempt(scale), 1
    yield Checkpoint, rows.checkpoint() | {"project_id": PROJECT, "bytes": "1000"}, CHECKPOINTS
    yield Event, _event(), scale.of_each_job
    yield Model, _model(), 1
    yield Artifact, _artifact(), ARTIFACTS


def _job(scale: Scale) -> dict[str, str]:
    runs, waits = f"i > {scale.jobs - scale.running}", f"i > {scale.jobs - scale.live}"
    failed = f"CASE WHEN i % 20 = 0 THEN '{JobStatus.FAILED}' ELSE '{JobStatus.CANCELLED}' END"
    ended = f"CASE WHEN i % 10 = 0 THEN {failed} ELSE '{JobStatus.SUCCEEDED}' END"
    return rows.ended_job() | {
        "project_id": PROJECT,
        "training_file_id": f"'file-' || (1 + i % {FILES})",
        "status": f"CASE WHEN {runs} THEN '{JobStatus.RUNNING}' "
        f"WHEN {waits} THEN '{JobStatus.QUEUED}' ELSE {ended} END",
        "last_event_seq": str(scale.of_each_job),
        "lease_owner": f"CASE WHEN {runs} THEN 'machine-' || i % {WORKERS} / 8 || '-' || "
        f"i % {WORKERS} END",
        "lease_expires_at": f"CASE WHEN {runs} THEN now() + interval '1 day' END",
        "finished_at": f"CASE WHEN NOT {waits} THEN made.at END",
        "fine_tuned_model_id": f"CASE WHEN NOT {waits} THEN {MODEL_ID} END",
        "actual": f"'{ACTUAL.model_dump_json(indent=1)}'::jsonb",
        "progress": """jsonb_build_object('step', i % 100, 'total_steps', 100, 'percent', i % 100,
            'train_loss', 1.5, 'eta_seconds', 60.0, 'tokens_per_second', 5000.0,
            'cost', jsonb_build_object('currency', 'USD', 'usd_per_device_hour', '1',
                                       'price_source', 'table', 'accrued', (i % 977)::text,
                                       'projected', null, 'projected_low', null,
                                       'projected_high', null))""",
    }


def _attempt(scale: Scale) -> dict[str, str]:
    runs = f"i > {scale.jobs - scale.running}"
    return rows.attempt() | {
        "worker": f"'machine-' || i % {WORKERS} / 8 || '-' || i % {WORKERS}",
        "device": "'cpu'",
        "num_devices": "1",
        "method": "'falqon'",
        "ended_at": f"CASE WHEN NOT {runs} THEN made.at END",
        "outcome": f"CASE WHEN NOT {runs} THEN '{JobStatus.SUCCEEDED}' END",
        "relayed": "0",
    }


def _event() -> dict[str, str]:
    return {
        "seq": "n",
        "attempt": "1",
        "level": "'info'",
        "type": "CASE WHEN n = 1 THEN 'message' ELSE 'metrics' END",
        "message": "'Step ' || n || ': training loss=1.50'",
        "data": f"CASE WHEN n > 1 THEN {METRICS} END",
    }


def _model() -> dict[str, str]:
    config = {"hidden_size": "64", "num_hidden_layers": "4", "vocab_size": "512"}
    pairs = ", ".join(f"'{name}', {value}" for name, value in config.items())
    return {
        "id": MODEL_ID,
        "project_id": PROJECT,
        "base_model_id": f"'{BASE_MODEL}'",
        "config": f"jsonb_build_object({pairs})",
        "bytes": "1000000",
    }


def _artifact() -> dict[str, str]:
    return {
        "model_id": MODEL_ID,
        "name": "'file-' || n",
        "bytes": "1000",
        "sha256": "md5(i::text)",
        "storage_key": "'models/' || i || '/' || n",
    }
