import io
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.base.database import Database, now
from app.base.errors import IllegalState
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
from app.uploads import service
from app.uploads.schemas import UploadRequest
from tests.support.services import ADMIN, make_services


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
