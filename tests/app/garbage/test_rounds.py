from datetime import timedelta

import pytest
from sqlalchemy import delete, update

from app.base.database import now
from app.garbage import collector
from app.models import DEFAULT_PROJECT_ID, Attempt, Installation, Orphan
from tests.app.garbage.test_collector import age, announced
from tests.support.backend import Backend
from tests.support.fixtures import backend as backend


def test_rounds_look_below_ended_attempts_and_once_a_week_everywhere(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(since: timedelta, since_whole: timedelta) -> int:
        with backend.database.transaction() as session:
            times = {
                "collected_at": now(session) - since,
                "surveyed_at": now(session) - since_whole,
            }
            session.execute(update(Installation).values(times))
        return collector.collect_due(backend.database, backend.storage, lambda _: None)

    job_id = backend.add_job()
    backend.supervisor().execute_next()
    lost = f"projects/{DEFAULT_PROJECT_ID}/jobs/{job_id}/1/checkpoints/9/state.bin"
    elsewhere = f"projects/{DEFAULT_PROJECT_ID}/exports/export-1/1/model"
    for key in (lost, elsewhere):
        backend.storage.put(key, [b"of a worker that was killed"])
    age(backend)
    minute, hour, day = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
    with backend.database.transaction() as session:
        session.execute(update(Attempt).values(ended_at=now(session) - day))
    assert collect(hour - minute, day) == 0
    assert collect(hour - minute, 7 * day + minute) == 2
    with backend.database.transaction() as session:
        session.execute(delete(Orphan))
    assert collect(hour, day) == 0, "the round before has looked there"
    with monkeypatch.context() as strict:
        strict.setattr(collector, "MAX_UNREFERENCED", 0)
        with pytest.raises(collector.HeldBack):
            collect(2 * hour, day)
    again = collector.collect_due(backend.database, backend.storage, lambda _: None)
    assert again == 1, "what was held back is met again"
    assert announced(backend) == {lost}
