from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import update

from app.database import Database
from app.jobs import claims, listing
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.listing import ROWS, Wanted
from app.models import DEFAULT_PROJECT_ID, Job, JobStatus, Project
from tests.support.house import House

NEWEST = Wanted()


@pytest.fixture
def house(tmp_path: Path, database: Database, database_url: str) -> House:
    return House(tmp_path, database, database_url)


def found(house: House, wanted: Wanted = NEWEST, project_id: str = DEFAULT_PROJECT_ID) -> list[str]:
    with house.database.read() as session:
        return [job.id for job in listing.find(session, project_id, wanted).jobs]


def claim(house: House) -> Claim:
    with house.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
    return Claim(job.id, job.attempt, "w")


def test_columns_sort_by_what_they_show_and_what_is_not_known_comes_last(house: House) -> None:
    unknown, ten, nine = house.add_job(), house.add_job(), house.add_job()
    for job_id, dollars, speed in ((ten, "10.0000", 900.0), (nine, "9.0000", 1000.0)):
        house.set(job_id, progress={"cost": {"accrued": dollars}, "tokens_per_second": speed, "percent": speed / 10})
    assert found(house) == [nine, ten, unknown]
    assert found(house, Wanted(descending=False)) == [unknown, ten, nine]
    assert found(house, Wanted(sort="cost")) == [ten, nine, unknown]
    assert found(house, Wanted(sort="cost", descending=False)) == [nine, ten, unknown]
    assert found(house, Wanted(sort="speed")) == [nine, ten, unknown]
    for sort in listing.SORTS:
        assert set(found(house, Wanted(sort=sort))) == {unknown, ten, nine}


def test_jobs_are_found_by_a_part_of_a_name_as_it_is_written(house: House) -> None:
    one, other = house.add_job(), house.add_job()
    house.set(one, suffix="Support_desk")
    house.set(other, suffix="supportXdesk", status=JobStatus.PAUSED)
    assert found(house, Wanted("support_DESK")) == [one]  # `_` is no wildcard
    assert found(house, Wanted("%")) == []
    assert found(house, Wanted(one[-8:])) == [one]
    assert found(house, Wanted("toy/")) == [other, one]
    assert found(house, Wanted("support", JobStatus.PAUSED)) == [other]


def test_a_project_sees_its_own_jobs_and_how_many_are_like_that(house: House) -> None:
    ids = [house.add_job() for _ in range(3)]
    with house.database.transaction() as session:
        session.add(Project(id="proj_other", name="other"))
        session.flush()
        session.execute(update(Job).where(Job.id == ids[0]).values(project_id="proj_other"))
    house.set(ids[1], status=JobStatus.PAUSED)
    assert found(house, project_id="proj_other") == [ids[0]]
    with house.database.read() as session:
        all_of_them = listing.find(session, DEFAULT_PROJECT_ID, Wanted())
        paused = listing.find(session, DEFAULT_PROJECT_ID, Wanted(status=JobStatus.PAUSED))
    assert (all_of_them.num_jobs, all_of_them.by_status) == (2, {"queued": 1, "paused": 1})
    assert (paused.num_jobs, [job.id for job in paused.jobs]) == (1, [ids[1]])


def test_pages_hold_every_job_once(house: House) -> None:
    ids = [house.add_job() for _ in range(ROWS + 2)]
    with house.database.read() as session:
        pages = [listing.find(session, DEFAULT_PROJECT_ID, Wanted(page=number)) for number in (1, 2, 3)]
    assert [len(page.jobs) for page in pages] == [ROWS, 2, 0]
    assert [job.id for page in pages for job in page.jobs] == ids[::-1]
    assert pages[0].num_pages == 2


def test_whoever_follows_a_project_learns_of_every_change(house: House) -> None:
    def state() -> object:
        with house.database.read() as session:
            return listing.states(session, [DEFAULT_PROJECT_ID])[DEFAULT_PROJECT_ID]

    seen = [state()]
    house.add_job()
    seen.append(state())
    taken = claim(house)
    seen.append(state())
    with house.database.transaction() as session:
        claims.append_events(session, taken, [NewEvent("one")])
    seen.append(state())
    with house.database.transaction() as session:
        claims.finish(session, taken, JobStatus.SUCCEEDED, NewEvent("done"))
    seen.append(state())
    assert all(before != after for before, after in pairwise(seen))
    assert state() == seen[-1]


def test_a_spark_is_the_whole_course_in_few_points_without_what_was_done_again(house: House) -> None:
    job_id = house.add_job()

    def run(steps: range) -> None:
        taken = claim(house)
        drafts = [NewEvent("step", type="metrics", data={"step": step, "train_loss": 1 / step + taken.attempt}) for step in steps]
        evaluated = NewEvent("evaluated", type="metrics", data={"step": steps[-1], "valid_loss": 9.0})
        with house.database.transaction() as session:
            claims.append_events(session, taken, [*drafts, evaluated])
            claims.release(session, taken, NewEvent("again"), counts_as_failure=False, max_infra_failures=3)

    def spark() -> list[tuple[int, float]]:
        with house.database.read() as session:
            return listing.sparks(session, [session.get_one(Job, job_id)])[job_id]

    run(range(1, 9))
    assert spark() == [(step, 1 / step + 1) for step in range(1, 9)]
    run(range(5, 9))
    assert spark() == [(step, 1 / step + (1 if step < 5 else 2)) for step in range(1, 9)]
    run(range(9, 1000))
    points = spark()
    assert len(points) <= listing.SPARK_POINTS
    assert points == sorted(points)
    assert points[-1][0] > 900
