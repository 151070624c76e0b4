from dataclasses import replace
from datetime import date
from itertools import pairwise

import pytest
from sqlalchemy import update

from app.jobs import claims, listing
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.listing import ROWS, JobQuery
from app.models import DEFAULT_PROJECT_ID, Job, JobStatus, Project
from app.models.job_progress import JobProgress
from tests.support.backend import Backend
from tests.support.job_columns import cost

NEWEST = JobQuery()


def job_ids(
    backend: Backend, query: JobQuery = NEWEST, project_id: str = DEFAULT_PROJECT_ID
) -> list[str]:
    with backend.database.read() as session:
        return [job.id for job in listing.find_page(session, project_id, query).jobs]


def claim(backend: Backend) -> Claim:
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
    return Claim(job.id, job.attempt, "w")


def test_columns_sort_by_what_they_show_and_what_is_not_known_comes_last(backend: Backend) -> None:
    unknown = backend.add_job()
    ten = backend.add_job()
    nine = backend.add_job()
    for job_id, dollars, speed in ((ten, "10.0000", 900.0), (nine, "9.0000", 1000.0)):
        backend.set(
            job_id,
            progress=JobProgress(cost=cost(dollars), tokens_per_second=speed, percent=speed / 10),
        )
    assert job_ids(backend) == [nine, ten, unknown]
    assert job_ids(backend, JobQuery(descending=False)) == [unknown, ten, nine]
    assert job_ids(backend, JobQuery(sort="cost")) == [ten, nine, unknown]
    assert job_ids(backend, JobQuery(sort="cost", descending=False)) == [nine, ten, unknown]
    assert job_ids(backend, JobQuery(sort="speed")) == [nine, ten, unknown]
    for sort in listing.SORTS:
        assert set(job_ids(backend, JobQuery(sort=sort))) == {unknown, ten, nine}


def test_jobs_are_found_by_a_part_of_a_name_as_it_is_written(backend: Backend) -> None:
    queued = backend.add_job()
    other = backend.add_job()
    backend.set(queued, suffix="Support_desk")
    backend.set(other, suffix="supportXdesk", status=JobStatus.PAUSED)
    assert job_ids(backend, JobQuery("support_DESK")) == [queued]  # `_` is no wildcard
    assert job_ids(backend, JobQuery("%")) == []
    assert job_ids(backend, JobQuery(queued[-8:])) == [queued]
    assert job_ids(backend, JobQuery("fake/")) == [other, queued]
    assert job_ids(backend, JobQuery("support", JobStatus.PAUSED)) == [other]


def test_a_project_sees_its_own_jobs_and_how_many_are_like_that(backend: Backend) -> None:
    ids = [backend.add_job() for _ in range(3)]
    with backend.database.transaction() as session:
        session.add(Project(id="proj_other", name="other"))
        session.flush()
        session.execute(update(Job).where(Job.id == ids[0]).values(project_id="proj_other"))
    backend.set(ids[1], status=JobStatus.PAUSED)
    assert job_ids(backend, project_id="proj_other") == [ids[0]]
    with backend.database.read() as session:
        all_of_them = listing.find_page(session, DEFAULT_PROJECT_ID, JobQuery())
        paused = listing.find_page(session, DEFAULT_PROJECT_ID, JobQuery(status=JobStatus.PAUSED))
    assert (all_of_them.num_jobs, all_of_them.by_status) == (2, {"queued": 1, "paused": 1})
    assert (paused.num_jobs, [job.id for job in paused.jobs]) == (1, [ids[1]])


def test_pages_hold_every_job_once(backend: Backend) -> None:
    ids = [backend.add_job() for _ in range(ROWS + 2)]
    with backend.database.read() as session:
        pages = [
            listing.find_page(session, DEFAULT_PROJECT_ID, JobQuery(page=number))
            for number in (1, 2, 3)
        ]
    assert [len(page.jobs) for page in pages] == [ROWS, 2, 0]
    assert [job.id for page in pages for job in page.jobs] == ids[::-1]
    assert pages[0].num_pages == 2


def test_whoever_follows_a_project_learns_of_every_change(backend: Backend) -> None:
    def state() -> object:
        with backend.database.read() as session:
            return listing.states(session, [DEFAULT_PROJECT_ID])[DEFAULT_PROJECT_ID]

    states = [state()]
    backend.add_job()
    states.append(state())
    job_claim = claim(backend)
    states.append(state())
    with backend.database.transaction() as session:
        claims.append_events(session, job_claim, [NewEvent("one")])
    states.append(state())
    with backend.database.transaction() as session:
        claims.finish(session, job_claim, JobStatus.SUCCEEDED, NewEvent("done"))
    states.append(state())
    assert all(before != after for before, after in pairwise(states))
    assert state() == states[-1]


def test_a_search_and_a_sort_by_cost_compare_the_newest_jobs_until_days_are_chosen(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [backend.add_job() for _ in range(5)]
    backend.set(ids[0], progress=JobProgress(cost=cost("9.0000")))
    for job_id in ids:
        backend.set(job_id, suffix="mine")
    monkeypatch.setattr(listing, "MAX_COMPARED", 3)
    newest = ids[:1:-1]
    dearest, found = JobQuery(sort="cost"), JobQuery("mine")
    for query, is_partial, expected in (
        (dearest, True, newest),
        (found, True, newest),
        (replace(found, status=JobStatus.QUEUED), True, newest),
        (JobQuery(), False, ids[::-1]),
        (JobQuery(sort="model", descending=False), False, ids),
        (replace(found, until=date(2020, 1, 1)), False, []),
    ):
        with backend.database.read() as session:
            page = listing.find_page(session, DEFAULT_PROJECT_ID, query)
        assert ([job.id for job in page.jobs], page.is_partial) == (expected, is_partial), query
    monkeypatch.setattr(listing, "MAX_COMPARED", 5)
    assert job_ids(backend, dearest)[0] == ids[0]
    assert len(job_ids(backend, found)) == 5
