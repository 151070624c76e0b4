"""What operations of all kinds share."""

import sqlite3
import time
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from app.files import repository as files
from app.models import FileCheck
from app.operations import claims
from tests.support.backend import Backend
from worker.operations.handler import Heartbeat, OperationAbandoned


def claimed_check(backend: Backend) -> FileCheck:
    job = backend.job(backend.add_job())
    with backend.database.transaction() as session:
        files.add_check(session, files.get(session, job.training_file_id))
    with backend.database.transaction() as session:
        operation = claims.claim(session, FileCheck, 60)
    assert operation is not None
    return operation


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.base.database.BUSY_TIMEOUT_MS", 200)
    monkeypatch.setattr("worker.operations.polled_lease.RETRY_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_away_costs_no_attempt_while_the_lease_lasts(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    operation = claimed_check(backend)
    context = backend.context(heartbeat=timedelta(0), lease=timedelta(seconds=2))
    heartbeat = Heartbeat(context, operation, 60)
    heartbeat()
    with closing(sqlite3.connect(backend.settings.data_dir / "falqon.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        heartbeat()  # waits for the other transaction
        time.sleep(2.0)
        with pytest.raises(OperationalError, match="locked"):
            heartbeat()  # by now the lease is over
        other.rollback()
    time.sleep(0.2)
    heartbeat()
    with backend.database.transaction() as session:
        session.delete(session.get_one(FileCheck, operation.id))
    with pytest.raises(OperationAbandoned):
        heartbeat()
