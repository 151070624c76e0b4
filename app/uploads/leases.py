"""Lease of the call that makes the file of an upload: of several calls, one at a time copies the
parts. If its process is killed, the lease ends and the next call may begin.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from sqlalchemy.orm import Session

from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database, now
from app.base.errors import Busy
from app.models import Upload
from app.uploads import repository

RENEWALS = 6  # in the time of a lease
# Clients repeat a refused call a few times only, and a large file is copied for minutes.
MAX_RETRY_AFTER_SECONDS = 20


def claim(session: Session, upload: Upload, lease: timedelta) -> None:
    """Begin an attempt to make the file. The upload is locked."""
    begins_at = now(session)
    if upload.lease_expires_at is not None and upload.lease_expires_at > begins_at:
        raise _busy(upload, upload.lease_expires_at - begins_at)
    upload.attempt += 1
    upload.lease_expires_at = begins_at + lease


@contextmanager
def released_on_error(database: Database, upload: Upload) -> Iterator[None]:
    """Let another call begin at once if this one fails."""
    try:
        yield
    except BaseException:
        with suppress(*DATABASE_UNAVAILABLE_ERRORS), database.transaction() as session:
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
            # The lease goes on for a while, and whoever ends the upload looks at it again.
            with suppress(*DATABASE_UNAVAILABLE_ERRORS):
                with database.transaction() as session:
                    if not repository.renew(session, upload, lease.total_seconds()):
                        raise _busy(upload, timedelta())
                renewed_at = time.monotonic()


def _busy(upload: Upload, left: timedelta) -> Busy:
    seconds = math.ceil(left.total_seconds())
    return Busy(
        f"Another call is completing {upload.id}, or has ended it; try again.",
        param="upload_id",
        code="completion_in_progress",
        retry_after_seconds=min(max(1, seconds), MAX_RETRY_AFTER_SECONDS),
    )
