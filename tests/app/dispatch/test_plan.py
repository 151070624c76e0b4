"""What is handed over, in which order, and what is withdrawn."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from app.base.database import Database
from app.dispatch.dispatcher import MAX_PENDING, plan
from app.dispatch.queue import State, list_waiting, states_of
from app.dispatch.starts import Start, WaitingJob, job_of
from app.jobs import claims
from app.models import Desired, Job
from tests.app.jobs.test_shares import add_project, queue


def test_jobs_are_handed_over_by_the_share_that_their_project_would_have(
    database: Database,
) -> None:
    for project_id, weight in (("a", 2), ("b", 1)):
        add_project(database, project_id, weight=weight)
    add_project(database, "limited", max_running_gpus=3)
    queue(database, "a", 6)
    queue(database, "b", 2, 2)
    queue(database, "limited", 5, 2)
    with database.transaction() as session:
        urgent = session.scalars(select(Job.id).where(Job.project_id == "a")).all()[-1]
        session.execute(update(Job).where(Job.id == urgent).values(priority=5))
    with database.read() as session:
        waiting = list_waiting(session, 100)
    assert waiting[0].id == urgent
    places = [job.project_id for job in waiting]
    assert Counter(places) == {"a": 6, "b": 2, "limited": 1}
    shares = {"a": (0.5, 1, 1.5, 2, 2.5, 3), "b": (2, 4), "limited": (2,)}
    taken = Counter[str]()
    order = []
    for project_id in places:
        order.append(shares[project_id][taken[project_id]])
        taken[project_id] += 1
    assert order == sorted(order)
    with database.transaction() as session:
        claims.claim(session, owner="w", device="h100", num_devices=1, lease_seconds=60)
        session.execute(update(Job).where(Job.project_id == "b").values(desired=Desired.PAUSE))
    with database.read() as session:
        assert len(list_waiting(session, 3)) == 3
        ids = [job.id for job in waiting]
        states = states_of(session, [*ids, "ftjob-of-another-installation"])
    assert Counter(states.values()) == {State.WAITING: 6, State.RUNNING: 1, State.OTHER: 2}


def test_jobs_within_the_guarantee_of_their_project_are_handed_over_first(
    database: Database,
) -> None:
    add_project(database, "a")
    add_project(database, "b", guaranteed_gpus=4)
    queue(database, "a", 2)
    queue(database, "b", 3, 2)
    with database.read() as session:
        places = [job.project_id for job in list_waiting(session, 100)]
    assert places == ["b", "b", "a", "a", "b"]


def waiting_job(number: int, attempt: int = 0) -> WaitingJob:
    return WaitingJob(f"ftjob-{number:032x}", "proj_1", "one", 1, "any", attempt)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.booleans(), st.sampled_from([0, 1, 2])),
        max_size=20,
    ),
    st.dictionaries(st.integers(0, 5), st.sampled_from(State)),
    st.integers(0, 2),
)
def test_each_waiting_job_has_one_start_afterwards_and_nothing_that_has_begun_is_touched(
    drawn: list[tuple[int, bool, bool, int]], jobs: dict[int, State], attempt: int
) -> None:
    starts = [
        Start(waiting_job(number, earlier).name, waiting_job(number).id, str(index), begun, ended)
        for index, (number, begun, ended, earlier) in enumerate(drawn)
    ]
    states = {waiting_job(number).id: state for number, state in jobs.items()}
    due = [waiting_job(number, attempt) for number in jobs if jobs[number] is State.WAITING]
    planned = plan(starts, states, due)
    assert not any(start.has_begun and not start.has_ended for start in planned.withdrawn)
    assert all(start.job_id in states for start in planned.withdrawn)
    live = [start for start in starts if not start.has_ended and start not in planned.withdrawn]
    for job in due:
        mine = [start for start in live if start.job_id == job.id]
        num_submitted = len([each for each in planned.submitted if each.id == job.id])
        num_pending = len([start for start in mine if not start.has_begun])
        assert num_submitted == (0 if mine else 1)
        assert num_pending <= (0 if any(start.has_begun for start in mine) else 1)


def test_no_more_starts_than_a_scheduler_takes_are_pending() -> None:
    jobs = [waiting_job(number) for number in range(MAX_PENDING + 5)]
    assert plan([], {}, jobs).submitted == jobs[:MAX_PENDING]
    starts = [Start(job.name, job.id, job.name) for job in jobs[:MAX_PENDING]]
    states = dict.fromkeys((job.id for job in jobs), State.WAITING)
    assert plan(starts, states, jobs) == ([], [])


def test_the_name_of_a_start_says_its_job_and_other_names_are_of_none() -> None:
    for attempt in (0, 1, 17):
        job = waiting_job(3, attempt)
        assert job_of(job.name) == job.id
        assert len(job.name) <= 63
    for name in ("falqon-worker", "falqon-ftjob-3", f"x{waiting_job(3).name}", ""):
        assert job_of(name) is None


def test_a_name_of_a_project_becomes_one_that_schedulers_accept() -> None:
    names = {"Vision": "vision", "Team A/B": "team-a-b", "図": "proj-1", "-x" * 80: "x-" * 31 + "x"}
    for name, filled in names.items():
        job = WaitingJob("ftjob-1", "proj_1", name, 1, "any", 0)
        assert job.fill("{project}") == filled
    assert waiting_job(1).fill("fixed") == "fixed"
