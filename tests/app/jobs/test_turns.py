"""Whose job is next: fair between projects, by priority and age within one."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from app.base.database import Database, now_plus
from app.base.ids import new_id
from app.base.settings import Settings
from app.jobs import claims, next_job
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.queue_forecast import LONG_QUEUE, MANY_WORKERS, MAX_FORECAST, read_queue
from app.models import Job, JobStatus, Model, Project, Worker
from app.models.job_request import JobRequest
from app.notifier import repository as notifications
from tests.support.plans import statements
from tests.support.rows import checked_file
from tests.support.waiting import wait_for

QUEUED, ENDED = 10_000, 10_000
NUM_CLAIMERS = 48


@pytest.fixture(autouse=True)
def _base_model(database: Database) -> None:
    with database.transaction() as session:
        session.add(Model(id="tiny", config={}, bytes=1))


def add_project(database: Database, project_id: str, weight: int = 1) -> None:
    with database.transaction() as session:
        session.add(Project(id=project_id, name=project_id, weight=weight))
        session.flush()
        session.add(checked_file(f"file-{project_id}", project_id))


def queue(database: Database, project_id: str, priorities: Sequence[int]) -> list[str]:
    ids = [new_id("ftjob-") for _ in priorities]
    rows = [
        {
            "id": id_,
            "project_id": project_id,
            "status": "queued",
            "desired": "run",
            "base_model_id": "tiny",
            "training_file_id": f"file-{project_id}",
            "requested": JobRequest(model="tiny", training_file=f"file-{project_id}"),
            "priority": priority,
        }
        for id_, priority in zip(ids, priorities, strict=True)
    ]
    with database.transaction() as session:
        session.execute(insert(Job), rows)
    return ids


def take(database: Database) -> Job | None:
    with database.transaction() as session:
        return claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)


def execute_next(database: Database) -> Job:
    """As the only worker does: one job after the other."""
    job = take(database)
    assert job is not None
    with database.transaction() as session:
        assert claims.finish(
            session, Claim(job.id, job.attempt, "w"), JobStatus.SUCCEEDED, NewEvent("done")
        )
    return job


def take_and_keep(database: Database) -> Job:
    """As one more of many workers does."""
    job = take(database)
    assert job is not None
    return job


WORKERS = pytest.mark.parametrize(
    "serve", [execute_next, take_and_keep], ids=["one worker", "many workers"]
)


@WORKERS
def test_a_hundred_jobs_of_one_project_do_not_starve_the_one_of_another(
    database: Database, serve: Any
) -> None:
    add_project(database, "many")
    add_project(database, "single")
    queue(database, "many", [10] * 100)
    assert serve(database).project_id == "many"
    (waiting,) = queue(database, "single", [-10])
    assert serve(database).id == waiting


@WORKERS
def test_a_project_of_three_times_the_weight_gets_three_times_as_much(
    database: Database, serve: Any
) -> None:
    add_project(database, "heavy", weight=3)
    add_project(database, "light")
    for project_id in ("light", "heavy"):
        queue(database, project_id, [0] * 40)
    assert Counter(serve(database).project_id for _ in range(40)) == {"heavy": 30, "light": 10}


def test_an_idle_project_does_not_catch_up(database: Database) -> None:
    add_project(database, "busy")
    add_project(database, "late")
    queue(database, "busy", [0] * 40)
    for _ in range(20):
        execute_next(database)
    queue(database, "late", [0] * 20)
    assert Counter(execute_next(database).project_id for _ in range(10)) == {"busy": 5, "late": 5}


def test_running_jobs_count_before_turns(database: Database) -> None:
    add_project(database, "a")
    add_project(database, "b")
    queue(database, "a", [0] * 4)
    for _ in range(2):
        take_and_keep(database)
    queue(database, "b", [0] * 4)
    assert [take_and_keep(database).project_id for _ in range(2)] == ["b", "b"]


def test_within_a_project_priority_then_age(database: Database) -> None:
    add_project(database, "a")
    first, urgent, second, later, urgent_too = queue(database, "a", [0, 5, 0, -1, 5])
    assert [execute_next(database).id for _ in range(5)] == [
        urgent,
        urgent_too,
        first,
        second,
        later,
    ]


def test_the_queue_is_read_with_as_many_statements_however_many_projects_wait(
    database: Database,
) -> None:
    """But for SQLite, where a statement costs no way to a server."""
    numbers = []
    for project_ids in ("a", "bcd"):
        for project_id in project_ids:
            add_project(database, project_id)
            queue(database, project_id, [0, 5])
        with statements(database) as executed, database.read() as session:
            waiting = read_queue(session, Settings(device="cpu"))
        numbers.append(len(executed))
    jobs = [execute_next(database) for _ in range(8)]
    places = [waiting.position_of(job.id) for job in jobs]
    assert [place and place.position for place in places] == list(range(1, 9))
    assert [job.priority for job in jobs] == [5] * 4 + [0] * 4
    assert numbers[0] == numbers[1] or database.engine.dialect.name == "sqlite"


def test_claims_at_once_take_each_job_once(database: Database) -> None:
    for project_id in "abcd":
        add_project(database, project_id)
        queue(database, project_id, [0] * 4)
    with ThreadPoolExecutor(8) as pool:
        job_ids = [job.id for job in pool.map(lambda _: take(database), range(16)) if job]
    assert len(set(job_ids)) == len(job_ids) == 16
    assert take(database) is None


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_claim_behind_many_waits_longer_than_for_a_row(
    database: Database, database_url: str
) -> None:
    """Without, those at the end of a long line fail where the machine is loaded."""
    for number in range(2):
        add_project(database, str(number))
        queue(database, str(number), [0] * (NUM_CLAIMERS // 2))
    options = "options=-c%20lock_timeout=300ms"
    impatient = Database(database_url + ("&" if "?" in database_url else "?") + options)
    second = Database(impatient.engine.url.render_as_string(hide_password=False))
    with ThreadPoolExecutor(NUM_CLAIMERS) as pool, database.transaction() as session:
        next_job.lock_claims(session)
        found = [pool.submit(take, each) for each in (impatient, second) * (NUM_CLAIMERS // 2)]
        with database.read() as reading:
            wait_for(lambda: num_waiting(reading) == NUM_CLAIMERS, what="all wait")
            time.sleep(0.5)
        session.commit()
        jobs = [each.result() for each in found]
    assert len({job.id for job in jobs if job is not None}) == NUM_CLAIMERS
    for each in (impatient, second):
        each.dispose()


def num_waiting(session: Session) -> int:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return session.scalar(text(waiting)) or 0


def plan_of(database: Database, statement: str, parameters: Any) -> str:
    explain = "EXPLAIN QUERY PLAN" if database.engine.dialect.name == "sqlite" else "EXPLAIN"
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
    return "\n".join(str(row) for row in rows)


REQUEST = '{"model": "tiny", "training_file": "f"}'
COLUMNS = (
    "id, project_id, status, desired, base_model_id, training_file_id, requested, attempt, "
    "infra_failures, last_event_seq, device_seconds, "
    "priority, created_at"
)


def test_claims_and_reminders_read_no_job_but_their_own_however_many_wait(
    database: Database,
) -> None:
    """10,000 jobs wait, 10,000 have ended: everything but the one row comes from the index."""
    for project_id in "abcde":
        add_project(database, project_id)
        rows = (
            f"SELECT 'ftjob-{project_id}' || i, '{project_id}', CASE WHEN i <= {QUEUED // 5} THEN "
            "'queued' ELSE 'succeeded' END, 'run', "
            f"'tiny', 'file-{project_id}', '{REQUEST}', 0, 0, 0, 0, i % 3, '2026-01-01 00:00:00' "
            "FROM n"
        )
        counted = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
            f"{(QUEUED + ENDED) // 5})"
        )
        with database.transaction() as session:
            session.execute(text(f"{counted} INSERT INTO jobs ({COLUMNS}) {rows}"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            "ANALYZE" if database.engine.dialect.name == "sqlite" else "VACUUM ANALYZE"
        )
    with statements(database) as executed:
        assert take(database) is not None
    sqlite = database.engine.dialect.name == "sqlite"
    plan = plan_of(
        database, *next(entry for entry in executed if entry[0].startswith("WITH next_project"))
    )
    reading = (
        r"(?:SEARCH|SCAN) jobs_\d USING (?:COVERING )?INDEX (\w+)"
        if sqlite
        else r"Index (?:Only )?Scan (?:Backward )?using (\w+) on jobs jobs_\d"
    )
    indexes = re.findall(reading, plan)
    # Three of them for projects with a guarantee alone.
    assert len(indexes) == 8, plan
    # the last locks what it takes, and passes over what others have locked
    assert sqlite or plan.count("Index Only Scan") == 7, plan
    assert set(indexes) <= {"ix_jobs_queue", "ix_jobs_project_id_status_id"}, plan
    assert not re.search(r"SCAN jobs|Seq Scan on jobs|Bitmap", plan), plan
    with statements(database) as executed, database.read() as session:
        notifications.oldest(session, Job, [next_job.is_due(Job)], 8)
    plan = plan_of(database, *executed[-1])
    assert re.search(r"\bix_jobs_(queued|status_id|queue)\b", plan), plan


@pytest.mark.parametrize(("num_workers", "num_jobs"), [(49, 2), (50, 2), (1, 51)])
def test_a_long_queue_is_not_read_each_time(
    database: Database, num_workers: int, num_jobs: int
) -> None:
    add_project(database, "a")
    workers = [
        {"id": f"m-{number}", "device": "cpu", "num_devices": 1, "max_gpus": 1_000_000}
        for number in range(num_workers)
    ]
    with database.transaction() as session:
        session.execute(insert(Worker).values(seen_at=now_plus(3600.0)), workers)
    queue(database, "a", [0] * (num_jobs - 1))
    settings = Settings(device="cpu")
    with database.read() as session:
        assert read_queue(session, settings).num_workers == num_workers
    [new_id] = queue(database, "a", [0])
    with database.read() as session:
        num_waiting = read_queue(session, settings).num_waiting
        created_at = session.get_one(Job, new_id).created_at
        of_new_job = read_queue(session, settings, created_at).num_waiting
    is_long = num_workers >= MANY_WORKERS or num_jobs > LONG_QUEUE
    assert num_waiting == (num_jobs - 1 if is_long else num_jobs)
    assert of_new_job == num_jobs, "a job has its place from the start"


def test_a_forecast_reads_so_many_jobs_however_many_projects_wait(database: Database) -> None:
    for number in range(50):
        add_project(database, f"p{number:02}")
        queue(database, f"p{number:02}", [0] * 6)
    with database.read() as session:
        waiting = read_queue(session, Settings(device="cpu"))
    assert waiting.num_waiting == MAX_FORECAST
    jobs = [execute_next(database) for _ in range(60)]
    places = [waiting.position_of(job.id) for job in jobs]
    assert [place and place.position for place in places] == list(range(1, 61))
    [later] = queue(database, "p00", [0])
    place = waiting.position_of(later)
    assert place is not None
    assert place.reason == "long_queue"
