from datetime import timedelta

import pytest
from sqlalchemy import update

from app.base.database import now
from app.base.errors import InvalidRequest
from app.files import lookup, removal
from app.garbage import orphans
from app.models import DEFAULT_PROJECT_ID, File, JobStatus, Orphan
from app.notifier.broker import Notifier
from app.reconciler import Reconciler
from tests.support.backend import Backend


def age(backend: Backend, file_id: str, seconds: int) -> None:
    """Its end lies this far back."""
    with backend.database.transaction() as session:
        session.execute(
            update(File)
            .where(File.id == file_id)
            .values(expires_at=now(session) - timedelta(seconds=seconds))
        )


def let_an_hour_pass(backend: Backend) -> None:
    with backend.database.transaction() as session:
        session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))


def deleted(backend: Backend, file_id: str) -> bool:
    with backend.database.read() as session:
        return session.get_one(File, file_id).deleted_at is not None


def test_a_file_expires_once_no_job_needs_it(backend: Backend) -> None:
    job_id = backend.add_job()
    file_id = backend.job(job_id).training_file_id
    with backend.database.read() as session:
        key = session.get_one(File, file_id).storage_key
    reconciler = Reconciler(
        backend.database, backend.storage, Notifier(backend.settings), backend.settings
    )
    age(backend, file_id, -60)
    backend.set(job_id, notified_at=backend.job(job_id).created_at, status=JobStatus.PAUSED)
    reconciler.tick()
    age(backend, file_id, 1)
    reconciler.tick()
    assert not deleted(backend, file_id), "its job is paused, not over"
    backend.set(job_id, status=JobStatus.CANCELLED)
    reconciler.tick()
    assert deleted(backend, file_id)
    assert backend.storage.keys("projects") == [key], "a download may be under way"
    let_an_hour_pass(backend)
    reconciler.sweep()
    assert backend.storage.keys("projects") == []
    assert removal.remove_expired(backend.database) == 0


def test_a_file_whose_end_has_come_starts_no_job(backend: Backend) -> None:
    file_id = backend.job(backend.add_job()).training_file_id
    for seconds in (-60, 1):
        age(backend, file_id, seconds)
        with backend.database.transaction() as session:
            if seconds < 0:
                lookup.get_for_job(session, DEFAULT_PROJECT_ID, file_id, None, lock=True)
                continue
            with pytest.raises(InvalidRequest, match="has expired"):
                lookup.get_for_job(session, DEFAULT_PROJECT_ID, file_id, None, lock=True)


def test_the_bytes_of_a_deleted_file_go_a_while_later(backend: Backend) -> None:
    gone, remaining = (backend.job(backend.add_job()) for _ in range(2))
    backend.set(gone.id, status=JobStatus.CANCELLED)
    with backend.database.transaction() as session:
        removal.delete(session, DEFAULT_PROJECT_ID, gone.training_file_id)
    let_an_hour_pass(backend)
    assert orphans.sweep(backend.database, backend.storage) == 1
    assert [key.split("/")[-1] for key in backend.storage.keys("projects")] == [
        remaining.training_file_id
    ]
