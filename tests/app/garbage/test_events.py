"""Events of jobs that ended long ago go faster than such jobs come."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.base.database import Database, now_plus
from app.garbage import events
from app.jobs.events import NewEvent, append
from app.models import Event, Job, JobStatus, Model, Project
from tests.support.rows import checked_file, queued_job

NUM_JOBS = 250
KEPT = timedelta(days=30)


def test_many_short_jobs_share_a_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"ftjob-{number:04}" for number in range(NUM_JOBS)]
    with database.transaction() as session:
        session.add_all([Project(id="p", name="p"), Model(id="tiny", config={}, bytes=1)])
        session.flush()
        session.add(checked_file("f", "p"))
        session.flush()
        session.add_all(queued_job(id_, "p", "f") for id_ in ids)
        session.flush()
        ended = {"status": JobStatus.CANCELLED, "finished_at": now_plus(-40 * 86_400)}
        for id_ in ids:
            append(session, id_, [NewEvent("begins"), NewEvent("ends")], **ended)
    monkeypatch.setattr(events, "TRANSACTIONS_AT_ONCE", 3)
    assert events.remove_old(database, KEPT) == NUM_JOBS
    with database.read() as session:
        left = session.execute(select(Event.job_id, func.count()).group_by(Event.job_id)).all()
        assert dict(left) == dict.fromkeys(ids, 1)
        assert session.scalar(select(Job.id).where(Job.events_removed_at.is_(None))) is None
