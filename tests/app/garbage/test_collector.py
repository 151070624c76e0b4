import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from app import installation, migrate
from app.catalogue import service as catalogue
from app.database import Database, now, now_plus
from app.files import service as files
from app.garbage import collector, orphans
from app.jobs import service as jobs
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
from app.storage import Storage
from tests.support.house import House


@pytest.fixture
def house(tmp_path: Path, database: Database, database_url: str) -> Iterator[House]:
    house = House(tmp_path / "data", database, database_url)
    yield house
    house.close()


def age(house: House, hours: float = 23) -> None:
    """Of everything that is stored now, and of the database."""
    with house.database.transaction() as session:
        session.execute(update(Installation).values(created_at=now_plus(-3600 * hours - 60)))
    moment = time.time() - 3600 * hours
    for path in (house.settings.data_dir / "objects").rglob("*"):
        os.utime(path, (moment, moment))


def sweep_an_hour_later(house: House) -> None:
    with house.database.transaction() as session:
        session.execute(update(Orphan).values(due_at=now(session) - timedelta(seconds=1)))
    while orphans.sweep(house.database, house.storage):
        pass


def objects(house: House) -> set[str]:
    return {key for root in ("projects/", "models/") for key in house.storage.keys(root)}


def named(house: House) -> set[str]:
    with house.database.read() as session:
        return orphans.named(session, sorted(objects(house)))


def test_what_every_row_names_stays_and_the_rest_goes(house: House) -> None:
    job_id = house.add_job()
    house.supervisor().execute_next()
    kept = objects(house)
    assert any("/checkpoints/" in key for key in kept)
    assert any("/model/" in key for key in kept)
    assert named(house) == kept
    prefix = f"projects/{DEFAULT_PROJECT_ID}/jobs/{job_id}"
    left = {f"{prefix}/7/checkpoints/5/state.bin", f"{prefix}/7/model/model.safetensors", f"{prefix}/1/checkpoints/1", "models/x/y"}
    for key in left:
        house.storage.put(key, [b"of a worker that was killed"])
    age(house)
    fresh = f"{prefix}/8/model/model.safetensors"
    house.storage.put(fresh, [b"of one that is uploading"])
    assert collector.collect(house.database, house.storage) == len(left)
    assert collector.collect(house.database, house.storage) == 0, "known already"
    assert objects(house) == kept | left | {fresh}, "an hour is left to object"
    sweep_an_hour_later(house)
    assert objects(house) == kept | {fresh}
    assert house.weights(job_id)


def test_who_gets_a_row_in_the_last_hour_is_spared(house: House) -> None:
    key = f"projects/{DEFAULT_PROJECT_ID}/jobs/ftjob-x/1/model/late"
    house.storage.put(key, [b"1"])
    age(house)
    collector.collect(house.database, house.storage)
    with house.database.transaction() as session:
        session.add(Artifact(model_id="toy/base", name="late", bytes=1, sha256="0", storage_key=key))
    sweep_an_hour_later(house)
    assert key in objects(house)


def test_the_bytes_of_deleted_models_jobs_and_files_go(house: House) -> None:
    job_id = house.add_job()
    house.supervisor().execute_next()
    job = house.job(job_id)
    assert job.fine_tuned_model_id is not None
    with house.database.transaction() as session:
        catalogue.delete(session, DEFAULT_PROJECT_ID, job.fine_tuned_model_id)
    sweep_an_hour_later(house)
    assert not any("/model/" in key for key in objects(house))
    with house.database.transaction() as session:
        assert jobs.delete(session, DEFAULT_PROJECT_ID, job_id)
    sweep_an_hour_later(house)
    assert not any("/jobs/" in key for key in objects(house))
    with house.database.transaction() as session:
        session.execute(update(File).values(expires_at=now_plus(-1)))
    files.remove_expired(house.database)
    sweep_an_hour_later(house)
    assert objects(house) == {key for key in objects(house) if key.startswith("models/")}


def test_models_deleted_before_anybody_collected_go_too(house: House) -> None:
    house.add_job()
    house.supervisor().execute_next()
    with house.database.transaction() as session:
        session.execute(update(Model).where(Model.project_id.is_not(None)).values(deleted_at=now_plus()))
    age(house)
    assert collector.collect(house.database, house.storage) > 0
    sweep_an_hour_later(house)
    assert not any("/model/" in key for key in objects(house))
    assert named(house) == objects(house)


def test_what_a_killed_writer_left_under_no_key_goes(house: House) -> None:
    folder = house.settings.data_dir / "objects" / "projects"
    folder.mkdir(exist_ok=True)
    for name in ("old#1", "old"):
        (folder / name).write_bytes(b"half")
    age(house)
    (folder / "new#12").write_bytes(b"half")
    house.storage.remove_unfinished(collector.AGE)
    assert sorted(path.name for path in folder.iterdir()) == ["new#12", "old"]


def test_deliveries_are_kept_for_a_month(house: House) -> None:
    with house.database.transaction() as session:
        session.add(
            WebhookEndpoint(
                id="we_1", project_id=DEFAULT_PROJECT_ID, name="", url="https://a.example", event_types={}, enabled=True,
                secret_generation=1, secret_hint="", updated_at=now(session),
            )
        )  # fmt: skip
        session.flush()
        for days, status in ((31, "delivered"), (31, "failed"), (31, "pending"), (29, "delivered")):
            session.add(
                WebhookDelivery(
                    id=f"{status}-{days}", endpoint_id="we_1", event_id="e", event_type="t", job_id="j", status=DeliveryStatus(status),
                    event_at=now(session), created_at=now(session) - timedelta(days=days),
                )
            )  # fmt: skip
    assert collector.forget_deliveries(house.database) == 2
    with house.database.read() as session:
        assert sorted(session.scalars(select(WebhookDelivery.id))) == ["delivered-29", "pending-31"]


def test_a_job_that_ended_keeps_its_checkpoints(house: House) -> None:
    job_id = house.add_job()
    house.supervisor().execute_next()
    age(house, hours=24 * 365)
    assert collector.collect(house.database, house.storage) == 0
    assert house.job(job_id).status == JobStatus.SUCCEEDED
    assert len(house.checkpoints(job_id)) == 2


def leave(house: House, count: int, folder: str = "lost") -> set[str]:
    """What looks like the work of others to whoever has no rows of it."""
    left = {f"projects/{folder}/{number}" for number in range(count)}
    path = house.settings.data_dir / "objects" / "projects" / folder
    path.mkdir(parents=True)
    for key in left:
        (path / key.rpartition("/")[2]).write_bytes(b"1")
    return left


def announced(house: House) -> set[str]:
    with house.database.read() as session:
        return set(session.scalars(select(Orphan.storage_key)))


def test_a_wrong_database_lets_nothing_go(house: House, tmp_path: Path) -> None:
    house.add_job()
    wrong = Database(f"sqlite:///{tmp_path / 'wrong.db'}")
    migrate.upgrade(wrong)
    with wrong.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default", created_at=now(session) - timedelta(days=9)))
    age(house)
    kept = objects(house)
    for database in (wrong, Database(house.settings.resolved_database_url)):
        reconciler = Reconciler(database, house.storage, Notifier(house.settings), house.settings)
        if database is wrong:
            with pytest.raises(installation.Mismatch):
                collector.collect(database, house.storage)
            with pytest.raises(installation.Mismatch):
                collector.confirm(database, house.storage)
            orphans.put(wrong, house.storage, "projects/p/announced", [b"1"])
        with database.transaction() as session:
            session.execute(update(Orphan).values(due_at=now_plus(-1)))
        reconciler.sweep()
        database.dispose()
    assert objects(house) == kept | {"projects/p/announced"}


def test_a_restored_copy_lets_nothing_go_until_confirmed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a dump of yesterday: it has the right id, and no row of what was made since then."""
    with house.database.transaction() as session:
        orphans.abandon(session, ["projects/lost/0"])  # being written while the dump was made
    collector.collect(house.database, house.storage)
    with house.database.read() as session:
        dumped = session.query(Installation).one().generation
    collector.collect(house.database, house.storage)
    left = leave(house, 3)
    age(house)
    with house.database.transaction() as session:
        session.execute(update(Installation).values(generation=dumped))
        session.execute(update(Orphan).values(due_at=now_plus(-1)))
    reconciler = Reconciler(house.database, house.storage, Notifier(house.settings), house.settings)
    with pytest.raises(installation.Restored, match="older copy"):
        collector.collect(house.database, house.storage)
    reconciler.sweep()
    assert left <= objects(house)
    assert announced(house) == {"projects/lost/0"}
    said = collector.describe(house.database, house.storage)
    assert "Without a row for 22 hours: 2 (2 bytes)" in said
    assert "older copy" in said
    assert collector.confirm(house.database, house.storage) == 2
    monkeypatch.setattr(installation, "ADVANCE_SECONDS", 0.0)
    Reconciler(house.database, house.storage, Notifier(house.settings), house.settings).sweep()
    sweep_an_hour_later(house)
    assert not left & objects(house)
    assert "Nothing is held back" in collector.describe(house.database, house.storage)


def test_more_than_a_thousand_wait_for_an_admin(house: House) -> None:
    left = leave(house, collector.NAMELESS)
    age(house)
    assert collector.collect(house.database, house.storage) == len(left)
    with house.database.transaction() as session:
        session.execute(delete(Orphan))
    more = leave(house, 1, "more")
    age(house)
    with pytest.raises(collector.Held, match=r"1,001 of 1,004 objects have no row.*--dry-run"):
        collector.collect(house.database, house.storage)
    assert announced(house) == set()
    assert "1,001 of 1,004" in collector.describe(house.database, house.storage)
    assert collector.confirm(house.database, house.storage) == 1001
    assert announced(house) == left | more


def test_of_many_objects_one_in_a_hundred_may_go() -> None:
    assert collector.Survey(listed=500_000, nameless=5000).held() is None
    assert "more than 5,000" in (collector.Survey(listed=500_000, nameless=5001).held() or "")


def test_a_database_younger_than_the_objects_lets_nothing_go(house: House) -> None:
    left = leave(house, 2)
    age(house)
    with house.database.transaction() as session:
        session.execute(update(Installation).values(created_at=now_plus(-3600)))
    with pytest.raises(collector.Held, match="2 objects without a row are older than the database"):
        collector.collect(house.database, house.storage)
    assert announced(house) == set()
    assert collector.confirm(house.database, house.storage) == 2
    assert announced(house) == left


def test_many_more_than_fit_into_memory_are_announced_in_turns(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "ANNOUNCED_AT_ONCE", 2)
    left = leave(house, 5)
    age(house)
    assert collector.collect(house.database, house.storage) == 2
    assert collector.confirm(house.database, house.storage) == 3
    assert announced(house) == left


def test_one_collects_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave(house, 3)
    age(house)
    storage = Storage(house.settings.resolved_storage_url)
    listing, go_on = threading.Event(), threading.Event()
    now_of_storage = storage.now

    def slowly() -> datetime:
        listing.set()
        assert go_on.wait(30)
        return now_of_storage()

    monkeypatch.setattr(storage, "now", slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(collector.collect, house.database, storage)
        assert listing.wait(30)
        assert collector.collect(house.database, house.storage) == 0
        with pytest.raises(collector.Held, match="try again"):
            collector.confirm(house.database, house.storage)
        assert announced(house) == set()
        go_on.set()
        assert first.result() == len(left)
    leave(house, 1, "later")
    age(house)
    assert collector.collect(house.database, house.storage) == 1, "the turn was given back"


def test_the_turn_of_a_collector_that_was_killed_ends(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(house, 1)
    age(house)
    with house.database.transaction() as session:
        session.execute(update(Installation).values(collector="killed", collecting_until=now_plus(3600)))
    assert collector.collect(house.database, house.storage) == 0
    with house.database.transaction() as session:
        session.execute(update(Installation).values(collecting_until=now_plus(-1)))
    assert collector.collect(house.database, house.storage) == 1


def test_who_was_too_slow_lets_nothing_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "TURN_SECONDS", 0.0)
    leave(house, 1)
    age(house)
    monkeypatch.setattr(house.storage, "now", partial(_lose_the_turn, house, house.storage.now))
    with pytest.raises(collector.Held, match="too slow"):
        collector.collect(house.database, house.storage)
    assert announced(house) == set()


def _lose_the_turn(house: House, now_of_storage: Callable[[], datetime]) -> datetime:
    with house.database.transaction() as session:
        session.execute(update(Installation).values(collector="another"))
    return now_of_storage()
