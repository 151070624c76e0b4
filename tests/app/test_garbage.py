import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app import garbage, orphans
from app.catalogue import service as catalogue
from app.database import Database, now, now_plus
from app.files import service as files
from app.jobs import service as jobs
from app.models import DEFAULT_PROJECT_ID, Artifact, DeliveryStatus, File, JobStatus, Model, Orphan, WebhookDelivery, WebhookEndpoint
from tests.support.house import House


@pytest.fixture
def house(tmp_path: Path, database: Database, database_url: str) -> Iterator[House]:
    house = House(tmp_path / "data", database, database_url)
    yield house
    house.close()


def age(house: House, hours: float = 23) -> None:
    """Of everything that is stored now."""
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
    assert garbage.collect(house.database, house.storage) == len(left)
    assert garbage.collect(house.database, house.storage) == 0, "known already"
    assert objects(house) == kept | left | {fresh}, "an hour is left to object"
    sweep_an_hour_later(house)
    assert objects(house) == kept | {fresh}
    assert house.weights(job_id)


def test_who_gets_a_row_in_the_last_hour_is_spared(house: House) -> None:
    key = f"projects/{DEFAULT_PROJECT_ID}/jobs/ftjob-x/1/model/late"
    house.storage.put(key, [b"1"])
    age(house)
    garbage.collect(house.database, house.storage)
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
    assert garbage.collect(house.database, house.storage) > 0
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
    house.storage.remove_unfinished(garbage.AGE)
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
    assert garbage.forget_deliveries(house.database) == 2
    with house.database.read() as session:
        assert sorted(session.scalars(select(WebhookDelivery.id))) == ["delivered-29", "pending-31"]


def test_a_job_that_ended_keeps_its_checkpoints(house: House) -> None:
    job_id = house.add_job()
    house.supervisor().execute_next()
    age(house, hours=24 * 365)
    assert garbage.collect(house.database, house.storage) == 0
    assert house.job(job_id).status == JobStatus.SUCCEEDED
    assert len(house.checkpoints(job_id)) == 2
