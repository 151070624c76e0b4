"""How many jobs a second are claimed on Postgres, by one claimer and by eight at once, of one
project and of several.

    python -m benchmarks.claims [--jobs 400] [--rounds 3]

Each claim is the transaction of an idle worker: it shows itself, claims, commits. The Postgres is
one's own and flushes what it commits. Rounds of one and of eight claimers alternate, so that a busy
machine hits both; the median counts. Each claimer is a process, as a worker is.
"""

import argparse
import statistics
import tempfile
import time
from multiprocessing import SimpleQueue, get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sqlalchemy import insert, select

from app.base import migrate
from app.base.database import Database
from app.jobs import claims
from app.models import Desired, File, FileStatus, Job, JobStatus, Model, Project
from app.models.job_request import JobRequest
from app.workers import service as workers
from tests.support.postgres import PostgresServer

CLAIMERS = (1, 8)
PROJECTS = (1, 4)


def fill(database: Database, num_jobs: int, num_projects: int) -> None:
    """Add projects with as many queued jobs each, with a model and a file that nobody reads."""
    project_ids = [f"proj-{number}" for number in range(num_projects)]
    with database.transaction() as session:
        session.add_all(Project(id=id_, name=id_) for id_ in project_ids)
        session.add(Model(id="measured", config={}, bytes=1))
        session.flush()
        session.add_all(
            File(
                id=f"file-{id_}",
                project_id=id_,
                filename="a",
                purpose="fine-tune",
                bytes=1,
                sha256="0",
                storage_key=id_,
                status=FileStatus.PROCESSED,
            )
            for id_ in project_ids
        )
        session.flush()
        rows = [
            {
                "id": f"ftjob-{number:06}",
                "project_id": project_ids[number % num_projects],
                "status": JobStatus.QUEUED,
                "desired": Desired.RUN,
                "base_model_id": "measured",
                "training_file_id": f"file-{project_ids[number % num_projects]}",
                "requested": JobRequest(model="measured", training_file="file"),
            }
            for number in range(num_jobs)
        ]
        session.execute(insert(Job), rows)


def claim_until_empty(
    url: str, owner: str, start: Barrier, durations: "SimpleQueue[list[float]]"
) -> None:
    """Claim until nothing is left, and tell how many seconds each claim took."""
    database = Database(url)
    seconds = []
    with database.read() as session:
        session.scalar(select(1))  # what a first connection costs is not measured
    start.wait()
    while True:
        started = time.monotonic()
        with database.transaction() as session:
            workers.mark_seen(session, owner, "cpu", 1)
            job = claims.claim(session, owner=owner, device="cpu", num_devices=1, lease_seconds=600)
        if job is None:
            break
        seconds.append(time.monotonic() - started)
    durations.put(seconds)
    database.dispose()


def claim_all(url: str, num_claimers: int) -> tuple[float, list[float]]:
    """Claim with so many processes; return the claims a second and how long each took."""
    context = get_context("spawn")
    start = context.Barrier(num_claimers + 1)
    durations = context.SimpleQueue()
    processes = [
        context.Process(target=claim_until_empty, args=(url, f"worker-{number}", start, durations))
        for number in range(num_claimers)
    ]
    for process in processes:
        process.start()
    start.wait()
    started = time.monotonic()
    seconds = [second for _ in processes for second in durations.get()]
    rate = len(seconds) / (time.monotonic() - started)
    for process in processes:
        process.join()
    return rate, seconds


def measure(
    server: PostgresServer, name: str, num_jobs: int, num_projects: int, num_claimers: int
) -> tuple[float, list[float]]:
    url = server.create_database(name)
    database = Database(url)
    try:
        migrate.upgrade(database)
        fill(database, num_jobs, num_projects)
    finally:
        database.dispose()
    return claim_all(url, num_claimers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder) / "postgres", durable=True)
        try:
            for num_projects in PROJECTS:
                report(server, options.jobs, options.rounds, num_projects)
        finally:
            server.stop()


def report(server: PostgresServer, num_jobs: int, num_rounds: int, num_projects: int) -> None:
    rates: dict[int, list[float]] = {number: [] for number in CLAIMERS}
    slowest: dict[int, list[float]] = {number: [] for number in CLAIMERS}
    for _ in range(num_rounds):
        for number in CLAIMERS:
            rate, seconds = measure(server, "claims", num_jobs, num_projects, number)
            rates[number].append(rate)
            slowest[number].append(statistics.quantiles(seconds, n=100)[-1])
    for number in CLAIMERS:
        rate = statistics.median(rates[number])
        p99 = statistics.median(slowest[number])
        print(
            f"projects={num_projects} claimers={number}: {rate:.0f} claims/s, p99 "
            f"{1000 * p99:.0f} ms"
        )


if __name__ == "__main__":
    main()
