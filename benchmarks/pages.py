"""What the pages and lists of a large project cost Postgres, query by query, and what dashboards
that stay open cost it.

    python -m benchmarks.pages        (about 3 minutes)

It starts its own Postgres and Valkey, and serves the API by uvicorn in a process of its own. The
table holds 100,000 jobs with a model each, 60,000 of them in one project. Milliseconds are those
that EXPLAIN ANALYZE reports, the least of 15 runs with a warm cache, for planning and for
execution; an answer over HTTP is measured by the clock and by the CPU time of the API's process.
Dashboards are measured by the CPU time of all processes of Postgres while one job writes an event
every half second, less what that takes without any.
"""

import argparse
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from redis import Redis
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import Database
from app.base.processes.supervised_process import say
from app.catalogue import repository as models
from app.catalogue import service as catalogue
from app.files import repository as files
from app.jobs import listing
from app.jobs import repository as jobs
from app.jobs.events import NewEvent, append
from app.jobs.listing import JobQuery
from app.models import DEFAULT_PROJECT_ID, File, Job, JobStatus, Scope
from app.models.job_progress import JobProgress
from app.notifier.wakeups import publish
from app.projects import repository as projects
from app.web.job_table import TableQuery
from app.web.pages.jobs import table_context
from benchmarks import plans
from benchmarks.api import report, rows
from benchmarks.api.servers import KEY, Server, Services, served, services
from benchmarks.api_load import SERVICE, create_job, upload
from benchmarks.page_rows import (
    COUNTED,
    CURVES,
    MODELS,
    MOVED,
    OLD_FILE,
    OTHER_PROJECTS,
    RETRAINED,
    RUNS_NOW,
    STEPS,
)

OTHERS = 40  # projects, which share the jobs that the large one has not
RUNS, ANSWERS = 15, 15
PATHS = (
    "/v1/models",
    "/",
    "/?page=1000",
    "/?sort=-cost",
    "/models",
    "/data",
    "/jobs/new",
    "/settings",
)


class Look(NamedTuple):
    name: str
    ask: Callable[[Session], object]


class Cost(NamedTuple):
    name: str
    planning_ms: float
    execution_ms: float
    plans: list[str]  # how each statement reads its tables


class Answer(NamedTuple):
    path: str
    first_byte_seconds: float
    seconds: float
    cpu_seconds: float
    bytes: int  # over the wire


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--dashboards", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="that the dashboards stay open")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "pages.md"
    )
    arguments = parser.parse_args()
    machine = report.machine()
    with services() as prepared:
        written = measure(prepared, arguments, machine)
    print(written)
    arguments.output.write_text(written)


def measure(prepared: Services, arguments: argparse.Namespace, machine: str) -> str:
    database = Database(prepared.settings.resolved_database_url)
    try:
        with served(prepared, SERVICE) as server:
            training_file = upload(server, database, prepared)
            running = create_job(server, training_file)
            fill(database, running, arguments.jobs)
            say("queries")
            costs = [_cost(database, look) for look in _looks(database, prepared)]
            say("answers")
            first = _first(server, "/v1/models")
            answers = [first, *(_answer(server, path) for path in (*PATHS, f"/jobs/{running}"))]
            say("dashboards")
            alone, watched = (
                _postgres_load(prepared, database, server, running, count, arguments.seconds)
                for count in (0, arguments.dashboards)
            )
        with database.read() as session:
            num_jobs = len(
                session.scalars(select(Job.id).where(Job.project_id == DEFAULT_PROJECT_ID)).all()
            )
            version = str(session.scalar(text("SHOW server_version")))
        return _markdown(
            arguments, f"{machine}, Postgres {version}", num_jobs, costs, answers, alone, watched
        )
    finally:
        database.dispose()


def fill(database: Database, template: str, num_jobs: int) -> None:
    """One job runs, all others have ended; the newest have curves."""
    rows.fill(database, template, num_jobs=num_jobs, num_events=rows.NUM_EVENTS)
    with database.engine.begin() as connection:
        connection.execute(text(OTHER_PROJECTS), {"others": OTHERS})
        connection.execute(text(MOVED), {"others": OTHERS})
        connection.execute(text(MODELS))
        connection.execute(text(RUNS_NOW), {"id": template})
        connection.execute(text(OLD_FILE))
        connection.execute(text(RETRAINED), {"id": template, "project": DEFAULT_PROJECT_ID})
        connection.execute(text(CURVES), {"project": DEFAULT_PROJECT_ID})
        connection.execute(text(COUNTED), {"project": DEFAULT_PROJECT_ID, "steps": STEPS})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum would, a minute later


def _looks(database: Database, prepared: Services) -> Iterator[Look]:
    project = DEFAULT_PROJECT_ID
    caller = Caller("key", project, Scope.READ, None, False)
    with database.read() as session:
        file_ids = list(session.scalars(select(File.id).where(File.project_id == project)))
        name = session.scalars(
            select(Job.id).where(Job.project_id == project).order_by(Job.id).limit(1)
        ).one()[-8:]

    def find_jobs(query: JobQuery) -> Callable[[Session], object]:
        return lambda session: listing.find_page(session, project, query)

    def read_table(session: Session) -> object:
        # of the services it needs the settings alone
        return table_context(session, prepared, caller, TableQuery())  # type: ignore[arg-type]

    yield Look("jobs page, everything on it", read_table)
    yield Look("the same, once its curves are known", read_table)
    yield Look("jobs page, the table alone", find_jobs(JobQuery()))
    yield Look("jobs page, one status", find_jobs(JobQuery(status=JobStatus.FAILED)))
    yield Look("jobs page, oldest first", find_jobs(JobQuery(descending=False)))
    yield Look("jobs page 1000", find_jobs(JobQuery(page=1000)))
    yield Look("jobs page, sorted by cost", find_jobs(JobQuery(sort="cost")))
    yield Look("jobs page, a search", find_jobs(JobQuery(search=name)))
    yield Look(
        "what streams look at each second", lambda session: listing.states(session, [project])
    )
    yield Look(
        "Data page, jobs of each file", lambda session: jobs.num_using(session, project, file_ids)
    )
    yield Look(
        "a file's page, its newest jobs",
        lambda session: jobs.list_using(session, project, "file-old", limit=20),
    )
    yield Look(
        "is a file in use (delete)",
        lambda session: files.live_job_using(session, project, "file-old"),
    )
    yield Look(
        "has the list of models changed",
        lambda session: (models.tally(session, None), models.tally(session, project)),
    )
    yield Look("Models page", lambda session: catalogue.newest(session, project, limit=200))
    yield Look(
        "Models page, a search",
        lambda session: catalogue.newest(session, project, limit=200, search=name),
    )
    yield Look(
        "quota: bytes of a project", lambda session: projects.storage_bytes(session, project)
    )


def _cost(database: Database, look: Look) -> Cost:
    costs = plans.measure(database, look.ask, RUNS)
    return Cost(
        look.name,
        sum(cost.planning_ms for cost in costs),
        sum(cost.execution_ms for cost in costs),
        [cost.reads for cost in costs],
    )


def _answer(server: Server, path: str) -> Answer:
    with _browser(server) as browser:
        return min(
            (_timed(server, browser, path) for _ in range(ANSWERS)), key=lambda item: item.seconds
        )


def _first(server: Server, path: str) -> Answer:
    with _browser(server) as browser:
        return _timed(server, browser, path)._replace(path=f"{path}, the first time")


def _timed(server: Server, browser: httpx.Client, path: str) -> Answer:
    began = time.perf_counter()
    cpu = server.cpu_seconds
    with browser.stream("GET", path) as response:
        first_byte = time.perf_counter() - began
        response.raise_for_status().read()
    seconds = time.perf_counter() - began
    num_bytes = response.num_bytes_downloaded
    return Answer(path, first_byte, seconds, server.cpu_seconds - cpu, num_bytes)


@contextmanager
def _browser(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"http://127.0.0.1:{server.port}", timeout=60, follow_redirects=True
    ) as browser:
        same_site = {"sec-fetch-site": "same-origin"}
        browser.post("/sign-in", data={"key": KEY}, headers=same_site).raise_for_status()
        browser.headers["authorization"] = f"Bearer {KEY}"
        yield browser


def _postgres_load(
    prepared: Services, database: Database, server: Server, job_id: str, count: int, seconds: float
) -> float:
    """The share of a core that Postgres takes while a job goes on and so many dashboards show its
    project.
    """
    stop = threading.Event()
    with (
        Redis.from_url(prepared.settings.resolved_redis_url) as redis,
        ExitStack() as open_dashboards,
    ):
        writer = threading.Thread(target=_go_on, args=(database, redis, job_id, stop))
        readers = [
            threading.Thread(target=_watch, args=(server, stop), daemon=True) for _ in range(count)
        ]
        for thread in (writer, *readers):
            thread.start()
        open_dashboards.callback(stop.set)
        time.sleep(5)  # all have had their first look
        began = time.monotonic()
        cpu = _postgres_seconds(prepared)
        time.sleep(seconds)
        load = (_postgres_seconds(prepared) - cpu) / (time.monotonic() - began)
        stop.set()
        for thread in (writer, *readers):
            thread.join(10)
    return load


def _go_on(database: Database, redis: Redis, job_id: str, stop: threading.Event) -> None:
    step = STEPS
    while not stop.wait(0.5):
        step += 1
        metrics = {"step": step, "train_loss": 1.5, "tokens_per_second": 5000.0}
        with database.transaction() as session:
            append(session, job_id, [NewEvent(f"Step {step}", type="metrics", data=metrics)])
            job = session.get_one(Job, job_id)
            job.progress = JobProgress(
                step=step, total_steps=100_000, percent=step / 1000, train_loss=1.5
            )
        publish(redis, job_id, 0)


def _watch(server: Server, stop: threading.Event) -> None:
    with _browser(server) as browser, browser.stream("GET", "/live") as stream:
        for _ in stream.iter_bytes():
            if stop.is_set():
                return


def _postgres_seconds(prepared: Services) -> float:
    """CPU time of the server and of all that it started, those that have ended included."""
    postmaster = int((prepared.folder / "pg" / "data" / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        if int(path.parent.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _markdown(
    arguments: argparse.Namespace,
    machine: str,
    num_jobs: int,
    costs: list[Cost],
    answers: list[Answer],
    alone: float,
    watched: float,
) -> str:
    lines = [
        "# What pages cost at 60,000 jobs",
        "",
        f"{machine}. {arguments.jobs:,} jobs with a model each, {num_jobs:,} of them in one "
        "project.",
        "",
        "```",
        "python -m benchmarks.pages",
        "```",
        "",
        "| query | planning ms | execution ms | how each statement reads |",
        "|---|---:|---:|---|",
        *(
            f"| {item.name} | {item.planning_ms:.1f} | {item.execution_ms:.1f} | "
            f"{'; '.join(filter(None, item.plans))} |"
            for item in costs
        ),
        "",
        "| answer over HTTP | ms to the first byte | ms "
        "| CPU ms of the API | bytes over the wire |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| GET {item.path} | {item.first_byte_seconds * 1000:.0f} | "
            f"{item.seconds * 1000:.0f} | {item.cpu_seconds * 1000:.0f} | {item.bytes:,} |"
            for item in answers
        ),
        "",
        f"{arguments.dashboards} open dashboards, one job in progress: {watched:.1%} of a core of "
        f"Postgres; {alone:.1%} without any, "
        f"so the dashboards take {watched - alone:.1%}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
