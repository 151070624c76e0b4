"""A service that has been in use for long: many jobs with what belongs to each, by bulk SQL from
one that the API made.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from app.base.database import Database
from app.models import Attempt, Base, Checkpoint, Event, Job, JobMetadata, JobStatus, Submission

NUM_EVENTS = 5
NUM_CHECKPOINTS = 2
NUM_EXPERIMENTS = 500
# As uuid7 begins, with milliseconds, so many seconds apart until now; the rest tells them apart.
NEW_JOBS = """
    CREATE TEMPORARY TABLE made ON COMMIT DROP AS
    SELECT i, now() - make_interval(secs => :apart * (:jobs - i + 1)) AS at,
           'ftjob-'
           || lpad(to_hex((extract(epoch FROM now()) - :apart * (:jobs - i + 1))::bigint * 1000),
                   12, '0')
           || '7' || substr(md5(i::text), 1, 19) AS id
    FROM generate_series(1, :jobs) i
"""
METRICS = (
    "jsonb_build_object('step', n, 'train_loss', 1.5, 'learning_rate', 0.0001, "
    "'tokens_per_second', 5000.0)"
)
MANY_EVENTS = f"""
    INSERT INTO events (job_id, seq, attempt, level, type, message, data, created_at)
    SELECT :job_id, n, 1, 'info', 'metrics', 'Step ' || n || ': training loss=1.50', {METRICS},
           now()
    FROM generate_series({NUM_EVENTS + 1}, :events) n
"""


@dataclass(frozen=True, slots=True)
class FilledJobs:
    middle_job: str
    job_with_many_events: str


def fill(database: Database, template: str, *, num_jobs: int, num_events: int) -> FilledJobs:
    """Fill the tables: of ten jobs nine succeeded; the newest of all has the many events."""
    with database.engine.begin() as connection:
        connection.execute(text(NEW_JOBS), {"jobs": num_jobs, "apart": 1})
        insert_copies(connection, template, Job, ended_job())
        insert_copies(
            connection,
            template,
            JobMetadata,
            {"name": "'experiment'", "value": f"'exp-' || i % {NUM_EXPERIMENTS}"},
        )
        insert_copies(
            connection,
            template,
            Submission,
            {"key": "'key:' || i", "request_sha256": "md5(i::text)"},
        )
        insert_copies(connection, template, Attempt, attempt())
        insert_copies(connection, template, Checkpoint, checkpoint(), NUM_CHECKPOINTS)
        insert_copies(connection, template, Event, event(), NUM_EVENTS)
        ids = text("SELECT id FROM made WHERE i IN (:middle, :jobs) ORDER BY i")
        middle, newest = connection.scalars(ids, {"middle": num_jobs // 2, "jobs": num_jobs})
        connection.execute(text(MANY_EVENTS), {"job_id": newest, "events": num_events})
        connection.execute(
            text("UPDATE jobs SET last_event_seq = :events WHERE id = :job_id"),
            {"job_id": newest, "events": num_events},
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum would, a minute later
    return FilledJobs(middle, newest)


def insert_copies(
    connection: Connection,
    template: str,
    table: type[Base],
    values: dict[str, str],
    copies: int = 1,
) -> None:
    """`copies` rows for each job that is made; `values` are SQL, and `n` numbers the copies. The
    rest is null, or as in the template.
    """
    from_job = {"job_id": "made.id", "created_at": "made.at", "project_id": "template.project_id"}
    columns = [column.name for column in table.__table__.columns]
    chosen = {
        name: values[name] if name in values else from_job[name]
        for name in columns
        if name in values or name in from_job
    }
    statement = f"""
        INSERT INTO {table.__tablename__} ({", ".join(chosen)}) SELECT {", ".join(chosen.values())}
        FROM made, jobs template, generate_series(1, {copies}) n
        WHERE template.id = :template ORDER BY made.i, n
    """
    connection.execute(text(statement), {"template": template})


def ended_job() -> dict[str, str]:
    other = f"CASE WHEN i % 20 = 0 THEN '{JobStatus.FAILED}' ELSE '{JobStatus.CANCELLED}' END"
    return {column.name: f"template.{column.name}" for column in Job.__table__.columns} | {
        "id": "made.id",
        "status": f"CASE WHEN i % 10 = 0 THEN {other} ELSE '{JobStatus.SUCCEEDED}' END",
        "metadata": f"jsonb_build_object('experiment', 'exp-' || i % {NUM_EXPERIMENTS})",
        "attempt": "1",
        "last_event_seq": str(NUM_EVENTS),
        "progress": """'{"step": 100, "total_steps": 100}'::jsonb""",
        "trained_tokens": "100000",
        **dict.fromkeys(("created_at", "started_at", "finished_at"), "made.at"),
    }


def attempt() -> dict[str, str]:
    """Measured, so that the estimate of a new job reads its rates."""
    return {
        "number": "1",
        "worker": "'worker-' || i % 8",
        "device": "template.estimate->>'device'",
        "num_devices": "(template.estimate->>'num_devices')::int",
        "base_model_id": "template.base_model_id",
        "method": "template.recipe->>'method'",
        "outcome": f"'{JobStatus.SUCCEEDED}'",
        "tokens": "100000",
        "train_seconds": "20.0 + i % 7",
        "overhead_seconds": "3.0",
        "ended_at": "made.at",
    }


def checkpoint() -> dict[str, str]:
    return {
        "id": "'ftckpt-' || i || '-' || n",
        "attempt": "1",
        "step": "n * 50",
        "storage_prefix": "'checkpoints/' || i || '-' || n",
        "manifest_sha256": "md5(i::text)",
        "bytes": "1",
        "metrics": """'{"train_loss": 1.5, "valid_loss": 1.6}'::jsonb""",
    }


def event() -> dict[str, str]:
    return {
        "seq": "n",
        "attempt": "1",
        "level": "'info'",
        "type": "'message'",
        "message": "'Step ' || n",
    }
