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
import tempfile
from pathlib import Path

from app import migrate
from app.database import Database
from app.processes.supervised_process import say
from benchmarks import plans, scale_rows
from benchmarks.api.report import machine
from benchmarks.plans import Cost
from benchmarks.scale_looks import Look, looks
from benchmarks.scale_rows import Scale
from tests.support.postgres import PostgresServer

LIMIT_MS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plans", action="store_true", help="print every plan")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fq-scale-") as folder:
        Path(folder).chmod(0o755)  # Postgres may run as another user
        server = PostgresServer(Path(folder) / "postgres")
        database = Database(server.create_database("scale"))
        try:
            slow = measure(database, arguments)
        finally:
            database.dispose()
            server.stop()
    if slow:
        raise SystemExit(f"above {LIMIT_MS:g} ms without a reason: {', '.join(slow)}")


def measure(database: Database, arguments: argparse.Namespace) -> list[str]:
    """Print what each look costs; return the names of those that cost too much."""
    migrate.upgrade(database)
    scale = Scale(arguments.jobs, arguments.events)
    filled = scale_rows.fill(database, scale)
    print(f"{machine()}. {scale.jobs:,} jobs, {scale.events:,} events.\n", flush=True)
    print("| query | ms | pages | how it reads |")
    print("|---|---:|---:|---|")
    slow = []
    for look in looks(database, filled):
        costs = plans.measure(database, look.ask, arguments.runs)
        for line in lines_of(look, costs):
            print(line, flush=True)
        too_slow = [cost for cost in costs if cost.milliseconds > LIMIT_MS]
        if too_slow and not look.reason:
            slow.append(look.name)
        for cost in costs if arguments.plans else too_slow:
            say(f"{look.name}:\n{cost.statement}\n{cost.description}\n")
    return slow


def lines_of(look: Look, costs: list[Cost]) -> list[str]:
    """Give a row for each statement; the first carries the name."""
    names = [look.name + (f" ({look.reason})" if look.reason else "")]
    names += ["" for _ in costs[1:]]
    return [
        f"| {name} | {cost.milliseconds:.1f} | {cost.num_buffers:,} | {cost.reads} |"
        for name, cost in zip(names, costs, strict=True)
    ]


if __name__ == "__main__":
    main()
