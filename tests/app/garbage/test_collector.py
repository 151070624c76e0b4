import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from app.base.database import Database, now, now_plus
from app.base.storage import Storage
from app.catalogue import service as catalogue
from app.files import removal
from app.garbage import collector, installation, orphans
from app.jobs import transitions
from app.models import (
    DEFAULT_PROJECT_ID,
    Artifact,
    DeliveryStatus,
    File,
    Installation,
    JobStatus,
    Model,
    Orphan,
    Project,
    WebhookDelivery,
    WebhookEndpoint,
)
from app.notifier.broker import Notifier
from app.reconciler import Reconciler
from tests.support.backend import Backend
from tests.support.garbage import collect
from tests.support.schema import migrate_database


def age(backend: Backend, hours: float = 23) -> None:
    """Of everything that is stored now, and of the database."""
    with backend.database.transaction() as session:
        session.execute(update(Installation).values(created_at=now_plus(-3600 * hours - 60)))
    moment = time.time() - 3600 * hours
    for path in (backend.settings.data_dir / "objects").rglob("*"):
        os.utime(path, (moment, moment))


def sweep_an_hour_later(backend: Backend) -> None:
    with backend.database.transaction() as session:
        session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))
    while orphans.sweep(backend.database, backend.storage):
        pass


def objects(backend: Backend) -> set[str]:
    return {key for root in ("projects/", "models/") for key in backend.storage.keys(root)}


def referenced(backend: Backend) -> set[str]:
    with backend.database.read() as session:
        return orphans.find_referenced(session, sorted(objects(backend)))


def test_objects_named_by_rows_stay_and_the_rest_is_collected(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.supervisor().execute_next()
    expected = objects(backend)
    assert any("/checkpoints/" in key for key in expected)
    assert any("/model/" in key for key in expected)
    assert referenced(backend) == expected
    prefix = f"projects/{DEFAULT_PROJECT_ID}/jobs/{job_id}"
    left = {
        f"{prefix}/7/checkpoints/5/state.bin",
        f"{prefix}/7/model/model.safetensors",
        f"{prefix}/1/checkpoints/1",
        "models/x/y",
    }
    for key in left:
        backend.storage.put(key, [b"of a worker that was killed"])
    age(backend)
    fresh = f"{prefix}/8/model/model.safetensors"
    backend.storage.put(fresh, [b"of one that is uploading"])
    assert collect(backend.database, backend.storage) == len(left)
    assert collect(backend.database, backend.storage) == 0, "known already"
    assert objects(backend) == expected | left | {fresh}, "an hour is left to object"
    sweep_an_hour_later(backend)
    assert objects(backend) == expected | {fresh}
    assert backend.weights(job_id)


def test_an_object_named_in_the_last_hour_is_spared(backend: Backend) -> None:
    key = f"projects/{DEFAULT_PROJECT_ID}/jobs/ftjob-x/1/model/late"
    backend.storage.put(key, [b"1"])
    age(backend)
    collect(backend.database, backend.storage)
    with backend.database.transaction() as session:
        session.add(
            Artifact(model_id="fake/base", name="late", bytes=1, sha256="0", storage_key=key)
        )
    sweep_an_hour_later(backend)
    assert key in objects(backend)


def test_the_bytes_of_deleted_models_jobs_and_files_go(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert job.fine_tuned_model_id is not None
    with backend.database.transaction() as session:
        catalogue.delete(
            session, DEFAULT_PROJECT_ID, job.fine_tuned_model_id, may_delete_bases=False
        )
    sweep_an_hour_later(backend)
    assert not any("/model/" in key for key in objects(backend))
    with backend.database.transaction() as session:
        assert transitions.delete(session, DEFAULT_PROJECT_ID, job_id)
    sweep_an_hour_later(backend)
    assert not any("/jobs/" in key for key in objects(backend))
    with backend.database.transaction() as session:
        session.execute(update(File).values(expires_at=now_plus(-1)))
    removal.remove_expired(backend.database)
    sweep_an_hour_later(backend)
    assert objects(backend) == {key for key in objects(backend) if key.startswith("models/")}


def test_models_deleted_before_the_first_collection_are_collected(backend: Backend) -> None:
    backend.add_job()
    backend.supervisor().execute_next()
    with backend.database.transaction() as session:
        session.execute(
            update(Model).where(Model.project_id.is_not(None)).values(deleted_at=now_plus())
        )
    age(backend)
    assert collect(backend.database, backend.storage) > 0
    sweep_an_hour_later(backend)
    assert not any("/model/" in key for key in objects(backend))
    assert referenced(backend) == objects(backend)


def test_bytes_that_a_killed_writer_left_are_collected(backend: Backend) -> None:
    folder = backend.settings.data_dir / "objects" / "projects"
    folder.mkdir(exist_ok=True)
    for name in ("old#1", "old"):
        (folder / name).write_bytes(b"half")
    age(backend)
    (folder / "new#12").write_bytes(b"half")
    backend.storage.remove_unfinished(collector.MIN_AGE)
    assert sorted(path.name for path in folder.iterdir()) == ["new#12", "old"]


def test_deliveries_are_kept_for_a_month(backend: Backend) -> None:
    with backend.database.transaction() as session:
        session.add(
            WebhookEndpoint(
                id="we_1",
                project_id=DEFAULT_PROJECT_ID,
                name="",
                url="https://a.example",
                event_types={},
                enabled=True,
                secret_generation=1,
                secret_hint="",
                updated_at=now(session),
            )
        )
        session.flush()
        for days, status in ((31, "delivered"), (31, "failed"), (31, "pending"), (29, "delivered")):
            session.add(
                WebhookDelivery(
                    id=f"{status}-{days}",
                    endpoint_id="we_1",
                    event_id="e",
                    event_type="t",
                    job_id="j",
                    status=DeliveryStatus(status),
                    event_at=now(session),
                    created_at=now(session) - timedelta(days=days),
                )
            )
    assert collector.forget_deliveries(backend.database) == 2
    with backend.database.read() as session:
        assert sorted(session.scalars(select(WebhookDelivery.id))) == ["delivered-29", "pending-31"]


def test_a_job_that_ended_keeps_its_checkpoints(backend: Backend) -> None:
    job_id = backend.add_job()
    backend.supervisor().execute_next()
    age(backend, hours=24 * 365)
    assert collect(backend.database, backend.storage) == 0
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert len(backend.checkpoints(job_id)) == 2


def leave(backend: Backend, count: int, folder: str = "lost") -> set[str]:
    """What looks like the work of others to whoever has no rows of it."""
    left = {f"projects/{folder}/{number}" for number in range(count)}
    path = backend.settings.data_dir / "objects" / "projects" / folder
    path.mkdir(parents=True)
    for key in left:
        (path / key.rpartition("/")[2]).write_bytes(b"1")
    return left


def announced(backend: Backend) -> set[str]:
    with backend.database.read() as session:
        return set(session.scalars(select(Orphan.storage_key)))


def test_a_wrong_database_lets_nothing_go(backend: Backend, tmp_path: Path) -> None:
    backend.add_job()
    wrong = Database(f"sqlite:///{tmp_path / 'wrong.db'}")
    migrate_database(wrong)
    with wrong.transaction() as session:
        session.add(
            Project(
                id=DEFAULT_PROJECT_ID, name="default", created_at=now(session) - timedelta(days=9)
            )
        )
    age(backend)
    expected = objects(backend)
    for database in (wrong, Database(backend.settings.resolved_database_url)):
        reconciler = Reconciler(
            database, backend.storage, Notifier(backend.settings), backend.settings
        )
        if database is wrong:
            with pytest.raises(installation.Mismatch):
                collect(database, backend.storage)
            with pytest.raises(installation.Mismatch):
                collector.confirm(database, backend.storage)
            orphans.put(wrong, backend.storage, "projects/p/announced", [b"1"])
        with database.transaction() as session:
            session.execute(update(Orphan).values(due_at=now_plus(-1)))
        reconciler.sweep()
        database.dispose()
    assert objects(backend) == expected | {"projects/p/announced"}


def test_a_restored_copy_lets_nothing_go_until_confirmed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dump of yesterday: it has the right id, and no row of what was made since then."""
    with backend.database.transaction() as session:
        orphans.mark_orphaned(session, ["projects/lost/0"])  # being written while the dump was made
    collect(backend.database, backend.storage)
    with backend.database.read() as session:
        dumped = session.query(Installation).one().generation
    collect(backend.database, backend.storage)
    left = leave(backend, 3)
    age(backend)
    with backend.database.transaction() as session:
        session.execute(update(Installation).values(generation=dumped))
        session.execute(update(Orphan).values(due_at=now_plus(-1)))
    reconciler = Reconciler(
        backend.database, backend.storage, Notifier(backend.settings), backend.settings
    )
    with pytest.raises(installation.DatabaseRestored, match="older copy"):
        collect(backend.database, backend.storage)
    reconciler.sweep()
    assert left <= objects(backend)
    assert announced(backend) == {"projects/lost/0"}
    description = collector.describe(backend.database, backend.storage)
    assert "Without a row for 22 hours: 2 (2 bytes)" in description
    assert "older copy" in description
    assert collector.confirm(backend.database, backend.storage) == 2
    monkeypatch.setattr(installation, "ADVANCE_SECONDS", 0.0)
    Reconciler(
        backend.database, backend.storage, Notifier(backend.settings), backend.settings
    ).sweep()
    sweep_an_hour_later(backend)
    assert not left & objects(backend)
    assert "Nothing is held back" in collector.describe(backend.database, backend.storage)


def test_more_than_a_thousand_wait_for_an_admin(backend: Backend) -> None:
    left = leave(backend, collector.MAX_UNREFERENCED)
    age(backend)
    assert collect(backend.database, backend.storage) == len(left)
    with backend.database.transaction() as session:
        session.execute(delete(Orphan))
    more = leave(backend, 1, "more")
    age(backend)
    with pytest.raises(collector.HeldBack, match=r"1,001 of 1,004 objects have no row.*--dry-run"):
        collect(backend.database, backend.storage)
    assert announced(backend) == set()
    assert "1,001 of 1,004" in collector.describe(backend.database, backend.storage)
    assert collector.confirm(backend.database, backend.storage) == 1001
    assert announced(backend) == left | more


def test_of_many_objects_one_in_a_hundred_may_go() -> None:
    assert collector.Survey(listed_keys=500_000, unreferenced=5000).hold_reason() is None
    assert "more than 5,000" in (
        collector.Survey(listed_keys=500_000, unreferenced=5001).hold_reason() or ""
    )


def test_a_database_younger_than_the_objects_lets_nothing_go(backend: Backend) -> None:
    left = leave(backend, 2)
    age(backend)
    with backend.database.transaction() as session:
        session.execute(update(Installation).values(created_at=now_plus(-3600)))
    with pytest.raises(
        collector.HeldBack, match="2 objects without a row are older than the database"
    ):
        collect(backend.database, backend.storage)
    assert announced(backend) == set()
    assert collector.confirm(backend.database, backend.storage) == 2
    assert announced(backend) == left


def test_many_more_than_fit_into_memory_are_announced_in_turns(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MAX_ANNOUNCED", 2)
    left = leave(backend, 5)
    age(backend)
    assert collect(backend.database, backend.storage) == 2
    assert collector.confirm(backend.database, backend.storage) == 3
    assert announced(backend) == left


def test_two_collectors_never_run_at_the_same_time(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(backend, 3)
    age(backend)
    storage = Storage(backend.settings.resolved_storage_url)
    listing = threading.Event()
    go_on = threading.Event()
    now_of_storage = storage.now

    def slowly() -> datetime:
        listing.set()
        assert go_on.wait(30)
        return now_of_storage()

    monkeypatch.setattr(storage, "now", slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(collect, backend.database, storage)
        assert listing.wait(30)
        assert collect(backend.database, backend.storage) == 0
        with pytest.raises(collector.HeldBack, match="try again"):
            collector.confirm(backend.database, backend.storage)
        assert announced(backend) == set()
        go_on.set()
        assert first.result() == len(left)
    leave(backend, 1, "later")
    age(backend)
    assert collect(backend.database, backend.storage) == 1, "the turn was given back"


def test_the_turn_of_a_collector_that_was_killed_ends(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(backend, 1)
    age(backend)
    with backend.database.transaction() as session:
        session.execute(
            update(Installation).values(collector="killed", collecting_until=now_plus(3600))
        )
    assert collect(backend.database, backend.storage) == 0
    with backend.database.transaction() as session:
        session.execute(update(Installation).values(collecting_until=now_plus(-1)))
    assert collect(backend.database, backend.storage) == 1


def test_a_collector_that_was_too_slow_announces_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "TURN_SECONDS", 0.0)
    leave(backend, 1)
    age(backend)
    monkeypatch.setattr(
        backend.storage, "now", partial(_lose_the_turn, backend, backend.storage.now)
    )
    with pytest.raises(collector.HeldBack, match="too slow"):
        collect(backend.database, backend.storage)
    assert announced(backend) == set()


def _lose_the_turn(backend: Backend, now_of_storage: Callable[[], datetime]) -> datetime:
    with backend.database.transaction() as session:
        session.execute(update(Installation).values(collector="another"))
    return now_of_storage()
