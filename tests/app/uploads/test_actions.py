import io
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.base.database import Database, now
from app.base.errors import Busy, IllegalState
from app.base.settings import Settings
from app.base.storage import Storage
from app.garbage import orphans
from app.models import (
    DEFAULT_PROJECT_ID,
    Orphan,
    Project,
    Purpose,
    Upload,
    UploadPart,
    UploadStatus,
)
from app.uploads import leases, repository, service
from app.uploads.schemas import UploadRequest
from tests.support.services import ADMIN, make_services

LEASE = timedelta(seconds=60)
CHUNK_TIME = timedelta(seconds=0.05)


class Uploads:
    """The actions with their parts at hand."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.storage = Storage((folder / "objects").as_uri())
        self.services = make_services(Settings(data_dir=folder), database, self.storage)
        with database.transaction() as session:
            session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))

    def begin(self, num_bytes: int = 6) -> str:
        request = UploadRequest(
            filename="a", purpose=Purpose.FINE_TUNE, bytes=num_bytes, mime_type="text/plain"
        )
        return service.create_upload(self.services, ADMIN, request).id

    def send(self, upload_id: str, content: bytes) -> str:
        stream = io.BytesIO(content)
        return service.create_part(self.services, ADMIN, upload_id, stream, len(content)).id

    def complete(self, upload_id: str, *part_ids: str) -> None:
        service.complete_upload(self.services, ADMIN, upload_id, list(part_ids))

    def claim(self, upload_id: str, lease: timedelta = timedelta(seconds=60)) -> Upload:
        """The upload, as a call that completes it holds it."""
        with self.database.transaction() as session:
            upload = session.get_one(Upload, upload_id)
            leases.claim(session, upload, lease)
        return upload

    def leased_until(self, upload_id: str) -> datetime:
        with self.database.read() as session:
            until = session.get_one(Upload, upload_id).lease_expires_at
        assert until is not None
        return until

    def let_an_hour_pass(self) -> None:
        with self.database.transaction() as session:
            past = now(session) - timedelta(seconds=1)
            session.execute(update(Upload).values(expires_at=past))
            session.execute(update(Orphan).values(due_at=past))

    def sweep(self) -> list[str]:
        """What is in storage afterwards."""
        orphans.sweep(self.database, self.storage)
        return self.storage.keys("projects")

    def status(self, upload_id: str) -> str:
        with self.database.read() as session:
            return session.get_one(Upload, upload_id).status

    def num_parts(self) -> int:
        with self.database.read() as session:
            return len(session.scalars(select(UploadPart.id)).all())


@pytest.fixture
def uploads(database: Database, tmp_path: Path) -> Uploads:
    return Uploads(database, tmp_path)


def test_an_upload_that_nobody_completes_expires_and_its_parts_go(uploads: Uploads) -> None:
    upload_id = uploads.begin()
    uploads.send(upload_id, b"abc")
    assert service.expire(uploads.database) == 0
    uploads.let_an_hour_pass()
    assert service.expire(uploads.database) == 1
    assert (uploads.status(upload_id), uploads.num_parts()) == (UploadStatus.EXPIRED, 0)
    uploads.let_an_hour_pass()
    assert uploads.sweep() == []
    assert service.expire(uploads.database) == 0


def test_an_upload_expires_before_the_reconciler_runs(uploads: Uploads) -> None:
    upload_id = uploads.begin()
    part_id = uploads.send(upload_id, b"abcdef")
    uploads.let_an_hour_pass()
    for call in (
        lambda: uploads.send(upload_id, b"abc"),
        lambda: uploads.complete(upload_id, part_id),
    ):
        with pytest.raises(IllegalState) as caught:
            call()
        assert caught.value.code == "upload_expired"
    assert uploads.num_parts() == 1


def test_of_a_completed_upload_only_the_file_stays(uploads: Uploads) -> None:
    upload_id = uploads.begin()
    uploads.complete(upload_id, uploads.send(upload_id, b"abc"), uploads.send(upload_id, b"def"))
    with uploads.database.read() as session:
        file_id = session.get_one(Upload, upload_id).file_id
    uploads.let_an_hour_pass()
    assert uploads.sweep() == [f"projects/{DEFAULT_PROJECT_ID}/files/{file_id}"]
    assert service.expire(uploads.database) == 0, "what is completed does not expire"


def test_one_completion_at_a_time_copies_the_parts(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = uploads.begin()
    part_id = uploads.send(upload_id, b"abcdef")
    put = orphans.put
    copies = []

    def completed_meanwhile(*arguments: object) -> object:
        copies.append(arguments)
        with pytest.raises(Busy) as caught:
            uploads.complete(upload_id, part_id)
        assert caught.value.code == "completion_in_progress"
        return put(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(orphans, "put", completed_meanwhile)
    uploads.complete(upload_id, part_id)
    uploads.complete(upload_id, part_id)
    assert len(copies) == 1


def test_an_upload_is_completed_after_the_lease_of_a_killed_process(uploads: Uploads) -> None:
    upload_id = uploads.begin()
    part_id = uploads.send(upload_id, b"abcdef")
    uploads.claim(upload_id)
    with pytest.raises(Busy):
        uploads.complete(upload_id, part_id)
    with uploads.database.transaction() as session:
        session.execute(update(Upload).values(lease_expires_at=now(session)))
    uploads.complete(upload_id, part_id)
    assert uploads.status(upload_id) == UploadStatus.COMPLETED


@pytest.fixture
def each_chunk_renews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWALS", LEASE / CHUNK_TIME * 2)


@pytest.mark.usefixtures("each_chunk_renews")
def test_a_slow_completion_keeps_its_lease_until_the_upload_ends(uploads: Uploads) -> None:
    upload_id = uploads.begin()
    upload = uploads.claim(upload_id, LEASE)

    def slow_chunks() -> Iterator[bytes]:
        for number in range(4):
            before = uploads.leased_until(upload_id)
            time.sleep(CHUNK_TIME.total_seconds())
            with pytest.raises(Busy):
                uploads.claim(upload_id)
            yield b"a"
            assert uploads.leased_until(upload_id) > before, number
        service.cancel_upload(uploads.services, ADMIN, upload_id)
        time.sleep(CHUNK_TIME.total_seconds())
        yield b"a"
        raise AssertionError("the copy goes on")

    with pytest.raises(Busy):
        list(leases.renew_while_reading(uploads.database, upload, LEASE, slow_chunks()))


@pytest.mark.usefixtures("each_chunk_renews")
def test_a_database_that_is_away_for_a_moment_does_not_end_a_copy(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.claim(uploads.begin(), LEASE)
    claimed_until = uploads.leased_until(upload.id)
    renew, failures = repository.renew, [OperationalError("renew", {}, Exception("away"))]

    def renew_later(*arguments: object) -> bool:
        if failures:
            raise failures.pop()
        return renew(*arguments)  # type: ignore[arg-type]

    def slow_chunks() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(CHUNK_TIME.total_seconds())
            yield b"a"

    monkeypatch.setattr(repository, "renew", renew_later)
    copied = leases.renew_while_reading(uploads.database, upload, LEASE, slow_chunks())
    assert list(copied) == [b"a"] * 4
    assert failures == []
    assert uploads.leased_until(upload.id) > claimed_until
    with pytest.raises(Busy):
        uploads.claim(upload.id)


@pytest.mark.parametrize("late", ["part", "complete"])
def test_an_end_that_comes_while_the_bytes_arrive_wins(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """Cancelled between the first look and the last transaction: no part and no file, and their
    bytes go.
    """
    upload_id = uploads.begin()
    part_id = uploads.send(upload_id, b"abcdef")
    put = orphans.put

    def cancelled_meanwhile(*arguments: object) -> object:
        stored = put(*arguments)  # type: ignore[arg-type]
        service.cancel_upload(uploads.services, ADMIN, upload_id)
        return stored

    monkeypatch.setattr(orphans, "put", cancelled_meanwhile)
    with pytest.raises(IllegalState) as caught:
        uploads.send(upload_id, b"abcdef") if late == "part" else uploads.complete(
            upload_id, part_id
        )
    assert caught.value.code == "upload_cancelled"
    assert uploads.num_parts() == 0
    uploads.let_an_hour_pass()
    assert uploads.sweep() == []
