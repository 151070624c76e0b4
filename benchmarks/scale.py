"""What every query of pages, claims, reconciler and collector costs Postgres in an installation
that has been in use for long: milliseconds, pages of the database, and its plan.

    python -m benchmarks.scale                                      (20,000 jobs, a minute)
    python -m benchmarks.scale --jobs 1000000 --events 10000000     (alone on its machine)

It starts its own Postgres. Each statement is what the service itself sends: a piece of it is asked
once, and what it sent is explained in its turn, in a transaction that is rolled back. Milliseconds
are those of planning and execution as EXPLAIN ANALYZE reports them, the least of the runs, with a
warm cache. A statement above the limit is printed with its plan, and ends the script with 1 unless
its line names why it may take longer.
"""

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import text

from app.base import migrate
from app.base.database import Database
from app.base.processes.supervised_process import say
from app.base.settings import Settings
from app.base.storage import Storage
from app.garbage import installation
from app.usage import sums
from benchmarks import parser_of, plans, scale_rows
from benchmarks.api.report import machine
from benchmarks.plans import StatementCost
from benchmarks.scale_columns import Scale
from benchmarks.scale_looks import Look, looks
from benchmarks.scale_requests import CALLS, Call, Sender, opened
from benchmarks.scale_rows import FilledTables
from tests.support.postgres import PostgresServer
from tests.support.valkey import Valkey

LIMIT_MS = 20.0


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plans", action="store_true", help="print every plan")
    arguments = parser.parse_args()
    # each request would write a line of its own into the table
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="fq-scale-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres may run as another user
        server = PostgresServer(folder / "postgres")
        valkey = Valkey(folder / "data")
        try:
            slow = measure(server, folder / "data", arguments)
        finally:
            valkey.kill()
            server.stop()
    if slow:
        raise SystemExit(f"above {LIMIT_MS:g} ms without a reason: {', '.join(slow)}")


def measure(server: PostgresServer, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Fill a database and print what each piece costs; return the names of those over the limit."""
    url = server.create_database("scale")
    settings = Settings(_env_file=None, database_url=url, data_dir=folder, device="cpu")
    database = Database(url)
    scale = Scale(arguments.jobs, arguments.events)
    try:
        migrate.upgrade(database)
        installation.mark(database, Storage(settings.resolved_storage_url))
        bytes_before = _num_bytes(database)
        filled = scale_rows.fill(database, scale)
        while sums.sum_days(database):  # as the reconciler has done by then
            pass
        num_bytes = _num_bytes(database) - bytes_before
    finally:
        database.dispose()
    print(f"{machine()}. {scale.jobs:,} jobs, {scale.events:,} events.")
    print(f"{num_bytes / 1e9:.1f} GB, {num_bytes / scale.jobs / 1e3:.1f} KB a job.\n", flush=True)
    return report(settings, filled, arguments)


def _num_bytes(database: Database) -> int:
    with database.read() as session:
        return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)


def report(settings: Settings, filled: FilledTables, arguments: argparse.Namespace) -> list[str]:
    print("| piece | statements | ms | pages | slowest, ms | pages | how it reads |")
    print("|---|---:|---:|---:|---:|---:|---|")
    slow = []
    with opened(settings, filled) as (services, sender):
        calls = [Look(call.name, partial(send, sender, call), call.reason) for call in CALLS]
        for look in (*calls, *looks(services, filled)):
            costs = plans.measure(services.database, look.ask, arguments.runs)
            too_slow = [cost for cost in costs if cost.milliseconds > LIMIT_MS]
            print(line_of(look, costs, is_slow=bool(too_slow)), flush=True)
            if too_slow and not look.reason:
                slow.append(look.name)
            for cost in costs if arguments.plans else too_slow:
                say(f"{look.name}:\n{cost.statement}\n{cost.description}\n")
    return slow


def send(sender: Sender, call: Call, _session: object) -> None:
    sender.send(call)


def line_of(look: Look, costs: list[StatementCost], *, is_slow: bool) -> str:
    name = look.name
    if is_slow:
        name += f": {look.reason or 'NO REASON'}"
    if not costs:
        return f"| {name} | 0 | | | | | |"
    slowest = max(costs, key=lambda cost: cost.milliseconds)
    milliseconds = sum(cost.milliseconds for cost in costs)
    num_buffers = sum(cost.num_buffers for cost in costs)
    return (
        f"| {name} | {len(costs)} | {milliseconds:.1f} | {num_buffers:,} "
        f"| {slowest.milliseconds:.1f} | {slowest.num_buffers:,} | {slowest.reads} |"
    )


if __name__ == "__main__":
    main()
