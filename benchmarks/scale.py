"""What every query of pages, claims, reconciler and collector costs Postgres in an installation
that has been in use for long: milliseconds, pages of the database, and its plan.

    python -m benchmarks.scale                                    (20,000 jobs, a minute)
    python -m benchmarks.scale --jobs 10000 100000 1000000        (and how each grows: ten minutes)

It starts its own Postgres. So many jobs have ended, with ten events each; 200 jobs run, and 200 of
each of 50 projects wait. Each statement is what the service itself sends: a piece of it is asked
once, and what it sent is explained in its turn, in a transaction that is rolled back. Milliseconds
are those of planning and execution as EXPLAIN ANALYZE reports them, the least of the runs, with a
warm cache. The exponent is that of the pages, from the first number of jobs to the last. A
statement above the limit is printed with its plan, and ends the script with 1 unless its line names
why it may take longer. Of a run that was ended, those numbers of jobs that were done are not
measured again: what `--folder` keeps of them goes once all are.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
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
from benchmarks.scale_columns import Scale
from benchmarks.scale_figures import Figures, PieceCost, table
from benchmarks.scale_looks import Look, forecast, looks
from benchmarks.scale_requests import CALLS, Call, Sender, opened
from benchmarks.scale_rows import FilledTables
from tests.support.postgres import PostgresServer
from tests.support.valkey import Valkey

LIMIT_MS = 20.0
EVENTS_OF_EACH = 10  # of a job


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[20_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plans", action="store_true", help="print every plan")
    parser.add_argument("--folder", type=Path, default=Path(".cache/scale"))
    arguments = parser.parse_args()
    # each request would write a line of its own into the table
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = {jobs: arguments.folder / f"{jobs}.json" for jobs in sorted(arguments.jobs)}
    for jobs, path in kept.items():
        if not path.exists():
            measure(jobs, arguments).write(path)
    figures = [Figures.read(path) for path in kept.values()]
    for line in table(figures, LIMIT_MS):
        print(line)
    for path in kept.values():
        path.unlink()
    slow = {
        name
        for each in figures
        for name, cost in each.pieces.items()
        if cost.slowest_ms > LIMIT_MS and not cost.reason
    }
    if slow:
        raise SystemExit(f"above {LIMIT_MS:g} ms without a reason: {', '.join(sorted(slow))}")


def measure(jobs: int, arguments: argparse.Namespace) -> Figures:
    """Fill a database and return what each piece costs."""
    on = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}"
    with tempfile.TemporaryDirectory(prefix="fq-scale-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres may run as another user
        server = PostgresServer(folder / "postgres")
        valkey = Valkey(folder / "data")
        try:
            url = server.create_database("scale")
            settings = Settings(
                _env_file=None, database_url=url, data_dir=folder / "data", device="cpu"
            )
            num_bytes, filled = fill(settings, Scale(jobs, jobs * EVENTS_OF_EACH))
            pieces = dict(costs_of(settings, filled, arguments))
        finally:
            valkey.kill()
            server.stop()
    return Figures(jobs, num_bytes, on, pieces)


def fill(settings: Settings, scale: Scale) -> tuple[int, FilledTables]:
    """Fill a database; return its size too."""
    database = Database(settings.resolved_database_url)
    try:
        migrate.upgrade(database)
        installation.mark(database, Storage(settings.resolved_storage_url))
        bytes_before = _num_bytes(database)
        filled = scale_rows.fill(database, scale)
        while sums.sum_days(database):  # as the reconciler has done by then
            pass
        return _num_bytes(database) - bytes_before, filled
    finally:
        database.dispose()


def _num_bytes(database: Database) -> int:
    with database.read() as session:
        return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)


def costs_of(
    settings: Settings, filled: FilledTables, arguments: argparse.Namespace
) -> Iterator[tuple[str, PieceCost]]:
    with opened(settings, filled) as (services, sender):
        calls = [Look(call.name, partial(send, sender, call), call.reason) for call in CALLS]
        for look in (*calls, *looks(services, filled)):
            with services.database.read() as session:
                forecast(services, session)
            costs = plans.measure(services.database, look.ask, arguments.runs)
            too_slow = [cost for cost in costs if cost.milliseconds > LIMIT_MS]
            for cost in costs if arguments.plans else too_slow:
                say(f"{look.name}:\n{cost.statement}\n{cost.description}\n")
            yield look.name, PieceCost.of(costs, look.reason)


def send(sender: Sender, call: Call, _session: object) -> None:
    sender.send(call)


if __name__ == "__main__":
    main()
