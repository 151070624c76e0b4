"""Load on the HTTP API with Postgres, beside a bare FastAPI and SQLAlchemy endpoint on the same
database in the same run.

    make load        (python -m benchmarks.api_load; about 4 minutes)

It starts its own Postgres (durable, as in production) and Valkey, and serves the API by uvicorn in
a process of its own, as `falqon up` does. All of it, the load generator too, runs on two cores. The
table holds 100,000 jobs with their attempts, checkpoints, events and metadata. Each request is
measured twice: at a rate, where requests come at random and latency counts from the moment that one
was due; and as often as 8 connections get answers. Streams have 2,000 readers on 20 jobs, each job
with one event a second, then with one on all at the same moment; latency counts from before the
event is written to when a reader has it.
"""

import argparse
import asyncio
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis import Redis

from app.base.database import Database
from app.base.processes.supervised_process import say
from app.base.storage import Storage
from app.jobs.events import NewEvent, append
from app.models import Job
from app.notifier.wakeups import publish
from benchmarks import parser_of
from benchmarks.api import load, readers, report, rows
from benchmarks.api.connection import LoadConnection, Request
from benchmarks.api.load import Make
from benchmarks.api.readers import Delivery, Streams
from benchmarks.api.report import MeasuredRequest
from benchmarks.api.servers import KEY, LoadServices, Server, served, services
from tests.support.checks import check_file

JOBS = "/v1/fine_tuning/jobs"
MODEL = "falqon-tiny"
SERVICE = "app.main:app"
BARE = "benchmarks.api.bare:app"
CORES = 2  # that the goals are stated for
STREAMED_JOBS = 20
RECORD = (
    b'{"messages": [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": '
    b'"four"}]}\n'
)


@dataclass(frozen=True, slots=True)
class LoadCase:
    name: str
    make: Make
    peer: Make  # the nearest that the bare endpoint has
    seconds_factor: float = 1.0
    goal_p99_ms: float | None = None


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument(
        "--events", type=int, default=50_000, help="of the job whose page of events is asked for"
    )
    parser.add_argument("--readers", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument(
        "--seconds",
        type=float,
        default=8,
        help="of each kind of request at that rate; submissions take twice as long",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "api_load.md"
    )
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    readers.raise_descriptor_limit(arguments.readers)
    machine = report.machine()
    with services() as prepared:
        text = report.markdown(arguments, machine, *measure(prepared, arguments))
    print(text)
    arguments.output.write_text(text)


def measure(
    prepared: LoadServices, arguments: argparse.Namespace
) -> tuple[str, list[MeasuredRequest], Delivery, Delivery]:
    database = Database(prepared.settings.resolved_database_url)
    try:
        with database.engine.connect() as connection:
            version = str(connection.exec_driver_sql("SHOW server_version").scalar_one())
        with served(prepared, SERVICE) as server:
            training_file = upload(server, database, prepared)
            streamed = [create_job(server, training_file) for _ in range(STREAMED_JOBS)]
            filled = rows.fill(
                database, streamed[0], num_jobs=arguments.jobs, num_events=arguments.events
            )
            with served(prepared, BARE) as bare:
                measured = [
                    _measure(case, server, bare, arguments)
                    for case in _cases(training_file, filled)
                ]
        say("streams")
        ours = _measure_streams(prepared, database, streamed, arguments)
        return version, measured, ours, _measure_bare_streams(prepared, streamed, arguments)
    finally:
        database.dispose()


def _cases(training_file: str, filled: rows.FilledJobs) -> Iterator[LoadCase]:
    numbers = itertools.count()

    def body() -> dict[str, object]:
        return {
            "model": MODEL,
            "training_file": training_file,
            "metadata": {"experiment": f"load-{next(numbers)}"},
        }

    def get(path: str) -> Make:
        return lambda: Request("GET", path)

    middle = filled.middle_job
    many = filled.job_with_many_events
    newest = get("/jobs?limit=20")
    yield LoadCase(
        "create a job",
        lambda: Request("POST", JOBS, body()),
        lambda: Request("POST", "/jobs", body()),
        2,
        goal_p99_ms=250,
    )
    yield LoadCase("retrieve a job", get(f"{JOBS}/{middle}"), get(f"/jobs/{middle}"))
    yield LoadCase("list, newest 20 (waiting)", get(f"{JOBS}?limit=20"), newest, goal_p99_ms=150)
    yield LoadCase(
        "list, 20 after the middle one (ended)",
        get(f"{JOBS}?limit=20&after={middle}"),
        newest,
        goal_p99_ms=150,
    )
    yield LoadCase(
        "list, 20 by status", get(f"{JOBS}?limit=20&status=failed"), newest, goal_p99_ms=150
    )
    yield LoadCase(
        "list, 20 by metadata",
        get(f"{JOBS}?limit=20&metadata[experiment]=exp-7"),
        newest,
        goal_p99_ms=150,
    )
    yield LoadCase(
        "newest 20 events of many",
        get(f"{JOBS}/{many}/events?limit=20"),
        get(f"/jobs/{many}/events?limit=20"),
    )


def _measure(
    case: LoadCase, server: Server, bare: Server, arguments: argparse.Namespace
) -> MeasuredRequest:
    say(case.name)
    seconds = arguments.seconds * case.seconds_factor
    ours, theirs = (
        asyncio.run(
            load.measure(
                on,
                KEY,
                make,
                rate=arguments.rate,
                seconds=seconds,
                busy_seconds=arguments.seconds / 2,
            )
        )
        for on, make in ((server, case.make), (bare, case.peer))
    )
    return MeasuredRequest(case.name, ours, theirs, case.goal_p99_ms)


def _measure_streams(
    prepared: LoadServices, database: Database, jobs: list[str], arguments: argparse.Namespace
) -> Delivery:
    """Measure in a fresh process, whose memory nothing else has grown."""
    with (
        served(prepared, SERVICE) as server,
        Redis.from_url(prepared.settings.resolved_redis_url) as redis,
    ):
        with database.read() as session:
            last = {job: session.get_one(Job, job).last_event_seq for job in jobs}

        def append_and_wake(job: str, text: str) -> None:
            """Append and wake as a worker does."""
            with database.transaction() as session:
                append(session, job, [NewEvent(text)])
            publish(redis, job, 0)

        async def tell(job: str, text: str) -> None:
            await asyncio.to_thread(append_and_wake, job, text)

        retrieve = Request("GET", f"{JOBS}/{jobs[0]}")
        streams = Streams(
            server, KEY, jobs, lambda job: f"{JOBS}/{job}/stream?after={last[job]}", tell, retrieve
        )
        return asyncio.run(
            readers.measure(streams, num_readers=arguments.readers, seconds=arguments.seconds * 2)
        )


def _measure_bare_streams(
    prepared: LoadServices, jobs: list[str], arguments: argparse.Namespace
) -> Delivery:
    with served(prepared, BARE) as server:

        async def tell(job: str, text: str) -> None:
            connection = await LoadConnection.open(server.port, KEY)
            await connection.send(Request("POST", f"/topics/{job}", {"message": text}))
            await connection.close()

        retrieve = Request("GET", f"/jobs/{jobs[0]}")
        streams = Streams(server, KEY, jobs, lambda job: f"/topics/{job}/stream", tell, retrieve)
        return asyncio.run(
            readers.measure(streams, num_readers=arguments.readers, seconds=arguments.seconds)
        )


def upload(server: Server, database: Database, prepared: LoadServices) -> str:
    """A file that has passed its check, which a worker would make."""
    url = f"http://127.0.0.1:{server.port}/v1/files"
    answer = httpx.post(
        url,
        headers=_headers(),
        data={"purpose": "fine-tune"},
        files={"file": ("rows.jsonl", RECORD * 50)},
    )
    file_id = str(answer.raise_for_status().json()["id"])
    check_file(
        database, Storage(prepared.settings.resolved_storage_url), file_id, prepared.settings
    )
    return file_id


def create_job(server: Server, training_file: str) -> str:
    url = f"http://127.0.0.1:{server.port}{JOBS}"
    answer = httpx.post(
        url, headers=_headers(), json={"model": MODEL, "training_file": training_file}
    )
    return str(answer.raise_for_status().json()["id"])


def _headers() -> dict[str, str]:
    return {"authorization": f"Bearer {KEY}"}


if __name__ == "__main__":
    main()
