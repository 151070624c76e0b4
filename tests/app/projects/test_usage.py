from datetime import UTC, datetime, timedelta

import pytest

from app.base.database import Database
from app.models import Model, Project
from app.projects import quotas, repository
from app.projects.repository import ProjectUsage
from tests.support.plans import statements
from tests.support.rows import checked_file, queued_job


def at(month: int, day: int, hour: int) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _job(database: Database) -> None:
    with database.transaction() as session:
        session.add_all([Project(id="p", name="p"), Model(id="tiny", config={}, bytes=1)])
        session.flush()
        session.add(checked_file("f", "p"))
        session.flush()
        session.add(queued_job("j", "p", "f"))


def booked(
    database: Database, started: datetime, ended: datetime, num_devices: int
) -> tuple[str | None, float]:
    with database.transaction() as session:
        repository.book_attempt(session, "j", started, ended, num_devices)
    with database.read() as session:
        project = session.get_one(Project, "p")
        return project.usage_month, project.usage_device_seconds


def test_attempts_add_up_by_device_and_month(database: Database) -> None:
    assert booked(database, at(10, 3, 1), at(10, 3, 3), 1) == ("2026-10", 7200)
    assert booked(database, at(10, 3, 1), at(10, 3, 3), 4) == ("2026-10", 36_000)
    # Of what began last month, this month counts its own part, and begins anew with it.
    assert booked(database, at(10, 31, 22), at(11, 1, 1), 2) == ("2026-11", 7200)
    # Who reports late about last month changes nothing.
    assert booked(database, at(10, 31, 20), at(10, 31, 21), 1) == ("2026-11", 7200)


def test_a_project_near_or_over_its_monthly_limit_is_reported_once(database: Database) -> None:
    def alerts_of(day: int, minutes: int, month: int = 11) -> str | None:
        started = at(month, day, 1)
        with database.transaction() as session:
            ended = started + timedelta(minutes=minutes)
            alert = quotas.book_attempt(session, "j", started, ended, 1)
        return alert and alert.level

    assert alerts_of(1, 60, month=10) is None  # nothing limits it yet
    with database.transaction() as session:
        session.get_one(Project, "p").max_device_hours = 2.0
    assert [alerts_of(day, minutes) for day, minutes in enumerate([60, 37, 1, 25, 60], 1)] == [
        None,
        "warning",
        None,
        "exhausted",
        None,
    ]
    assert alerts_of(1, 120, month=12) == "exhausted"


def test_last_months_hours_do_not_count_now(database: Database) -> None:
    booked(database, datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC), 1)
    with database.read() as session:
        assert repository.device_seconds(session, session.get_one(Project, "p")) == 0


def test_usage_of_many_projects_takes_the_statements_of_one(database: Database) -> None:
    with database.transaction() as session:
        session.add_all([Project(id=f"q{i}", name="q") for i in range(5)])
        session.flush()
        session.add_all([checked_file(f"f{i}", f"q{i}") for i in range(5)])
    with statements(database) as executed, database.read() as session:
        projects = repository.newest_first(session, None, after=None, limit=20)
        ids = [project.id for project in projects]
        used = dict(zip(ids, repository.usages(session, projects), strict=True))
    assert len(executed) < 12
    one_file = checked_file("", "").bytes
    kinds = {"files": one_file, "models": 0, "checkpoints": 0, "uploads": 0}
    assert used["p"] == ProjectUsage(1, kinds, 0.0)
    assert used["q3"] == ProjectUsage(0, kinds, 0.0)
