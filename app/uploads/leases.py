"""Lease of the call that makes the file of an upload: of several calls, one at a time copies the
parts. If its process is killed, the lease ends and the next call may begin.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.orm import Session

from app.base.database import Database, now
from app.base.errors import Busy
from app.models import Upload
from app.uploads import repository

RENEWALS = 6  # in the time of a lease


def claim(session: Session, upload: Upload, lease: timedelta) -> None:
    """Begin an attempt to make the file. The upload is locked."""
    begins_at = now(session)
    if upload.lease_expires_at is not None and upload.lease_expires_at > begins_at:
        raise _busy(upload)
    upload.attempt += 1
    upload.lease_expires_at = begins_at + lease


@contextmanager
def released_on_error(database: Database, upload: Upload) -> Iterator[None]:
    """Let another call begin at once if this one fails."""
    try:
        yield
    except BaseException:
        with database.transaction() as session:
            repository.release(session, upload)
        raise


def renew_while_reading(
    database: Database, upload: Upload, lease: timedelta, chunks: Iterable[bytes]
) -> Iterator[bytes]:
    """Return the chunks, and renew the lease meanwhile. Raises `Busy` once it is lost, or the
    upload has ended.
    """
    renewed_at = time.monotonic()
    for chunk in chunks:
        yield chunk
        if time.monotonic() - renewed_at > lease.total_seconds() / RENEWALS:
            with database.transaction() as session:
                if not repository.renew(session, upload, lease.total_seconds()):
                    raise _busy(upload)
            renewed_at = time.monotonic()


def _busy(upload: Upload) -> Busy:
    return Busy(
        f"Another call is completing {upload.id}, or has ended it; try again.",
        param="upload_id",
        code="completion_in_progress",
    )
