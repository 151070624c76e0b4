"""What the events of one job cost Postgres: statements, rows, WAL and bytes on disk.

    python -m benchmarks.events_growth                   (a job of 3,000 steps, a minute)

A step a second, whose events are written once in five seconds, as where nobody watches; and a
hundred steps a second, 500 at once. It starts its own Postgres. What the relay's transaction does
beside its events (lease, cost, usage) is left out.
"""

import random
import tempfile
from pathlib import Path

from sqlalchemy import event, text, update

from app.base import migrate
from app.base.database import Database
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Job, JobStatus
from benchmarks import parser_of, scale_rows
from benchmarks.api.report import machine
from benchmarks.scale_rows import TEMPLATE
from tests.support.postgres import PostgresServer

BATCHES = {"5 steps": 5, "500 steps": 500}
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
SIZE = "SELECT pg_total_relation_size('events')"
ROWS = "SELECT count(*) FROM events WHERE type <> 'message'"


HEADER = (
    "| events at once | statements | rows of metrics | WAL, KB | table and index, KB "
    "| after VACUUM FULL, KB |"
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=3_000)
    steps = parser.parse_args().steps
    print(f"{machine()}. {steps:,} steps.\n")
    print(HEADER)
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="fq-growth-") as folder:
        Path(folder).chmod(0o755)  # Postgres may run as another user
        server = PostgresServer(Path(folder) / "postgres")
        try:
            for number, (name, size) in enumerate(BATCHES.items()):
                database = Database(server.create_database(f"growth_{number}"))
                costs = measure(database, steps, size)
                print(f"| {name} |", " | ".join(f"{cost:,}" for cost in costs), "|", flush=True)
                database.dispose()
        finally:
            server.stop()


def measure(database: Database, steps: int, size: int) -> list[int]:
    """Write the events of one job, `size` at once, and end its attempt."""
    migrate.upgrade(database)
    with database.transaction() as session:
        scale_rows.add_template(session)
        session.execute(update(Job).values(status=JobStatus.QUEUED, desired="run"))
    with database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=1e6)
        assert job is not None
    claim = Claim(TEMPLATE, job.attempt, "w")
    statements: list[str] = []
    with database.engine.connect() as connection:
        connection.execute(text("CHECKPOINT"))
    wal = _number(database, WAL)
    event.listen(
        database.engine, "before_cursor_execute", lambda *values: statements.append(values[2])
    )
    for first in range(0, steps, size):
        batch = [_step(step, steps) for step in range(first + 1, min(first + size, steps) + 1)]
        with database.transaction() as session:
            claims.append_trainer_events(session, claim, batch, first)
    with database.transaction() as session:
        claims.finish(session, claim, JobStatus.CANCELLED, NewEvent("The job was cancelled"))
    num_statements = len(statements)
    wal = _number(database, WAL) - wal
    num_rows = _number(database, ROWS)
    num_bytes = _number(database, SIZE)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM FULL events"))
    return [
        num_statements,
        num_rows,
        wal // 1024,
        num_bytes // 1024,
        _number(database, SIZE) // 1024,
    ]


def _number(database: Database, statement: str) -> int:
    with database.read() as session:
        return int(session.scalar(text(statement)) or 0)


def _step(step: int, total_steps: int) -> NewEvent:
    """Return what a trainer on a CPU reports, and its worker adds."""
    noise = random.Random(step).random()
    data = {
        "step": step,
        "total_steps": total_steps,
        "epoch": 3 * step / total_steps,
        "train_loss": 2 + noise,
        "train_mean_token_accuracy": noise,
        "learning_rate": 1e-4 * (1 - step / total_steps),
        "grad_norm": 1 / (1 + noise),
        "tokens": 1_000 + int(99 * noise),
        "trained_tokens": 1_000 * step,
        "tokens_per_second": 5_000 + 99 * noise,
        "elapsed_seconds": step * (1 + noise / 1_000),
        "codes_changed": noise / 99,
        "memory_bytes": 1_000_000_000,
        "cpu_utilization": 99 * noise,
        "eta_seconds": round(total_steps - step + noise, 1),
        "eta_low_seconds": round(0.9 * (total_steps - step) + noise, 1),
        "eta_high_seconds": round(1.1 * (total_steps - step) + noise, 1),
        "cost_accrued": f"{step / 10_000:.4f}",
        "cost_projected": "0.3000",
        "cost_projected_low": f"0.2{int(9 * noise)}",
        "cost_projected_high": f"0.4{int(9 * noise)}",
    }
    return NewEvent(
        f"Step {step}/{total_steps}: training loss={data['train_loss']:.2f}",
        type="metrics",
        data=data,
    )


if __name__ == "__main__":
    main()
