"""Orphans: bytes that no row names. An object is an orphan before its first byte is written, is
claimed by the transaction that adds its row, and is an orphan again when the row goes. So a crash
at any point leaves nothing behind for good, and a row never names missing bytes. A key that ends
with a slash stands for all objects below it.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from pathlib import PurePosixPath

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, Database, insert_or, now, now_plus, now_plus_once
from app.base.errors import Unavailable
from app.base.storage import Storage, Stored
from app.base.storage.keys import job_of_log, trainer_log
from app.models import Artifact, Attempt, Checkpoint, File, Job, Model, Orphan, UploadPart

# Longer than any write of one object, and than a download in progress.
GRACE_PERIOD = timedelta(hours=1)
SWEPT_AT_ONCE = 100
CHECKED_AT_ONCE = 1000


def put(database: Database, storage: Storage, key: str, chunks: Iterable[bytes]) -> Stored:
    """Write an object for a row that is about to claim it."""
    with database.transaction() as session:
        mark_orphaned(session, [key])
    return storage.put(key, chunks)


def claim(session: Session, key: str) -> None:
    """Take the object out of the orphans, in the transaction that adds its row.

    Raises when the object came too late and is being removed.
    """
    statement = (
        delete(Orphan)
        .where(Orphan.storage_key == key, Orphan.deleting.is_(False))
        .returning(Orphan.storage_key)
    )
    if session.scalar(statement, execution_options=UNSYNCED) is None:
        raise Unavailable(
            "Storing the bytes took too long; send them again.", code="storage_too_slow"
        )


def mark_orphaned(session: Session, keys: Iterable[str]) -> None:
    """Mark objects for removal, in the transaction that removes the row or before the write."""
    due_at = now(session) + GRACE_PERIOD
    rows = [{"storage_key": key, "due_at": due_at, "deleting": False} for key in keys]
    if rows:
        session.execute(insert_or(session, Orphan).on_conflict_do_nothing(), rows)


def find_referenced(session: Session, keys: Collection[str]) -> set[str]:
    """Return the keys that a row names: of files, parts, models not deleted, checkpoints, logs."""
    folders = {parent.as_posix() for key in keys for parent in PurePosixPath(key).parents}
    checkpoints = set(
        session.scalars(
            select(Checkpoint.storage_prefix).where(Checkpoint.storage_prefix.in_(folders))
        )
    )
    owners = {
        key
        for key in keys
        if any(parent.as_posix() in checkpoints for parent in PurePosixPath(key).parents)
    }
    if job_ids := {job_id for key in keys if (job_id := job_of_log(key))}:
        with_log = (
            select(Job.project_id, Attempt.job_id, Attempt.number)
            .join(Job, Job.id == Attempt.job_id)
            .where(Attempt.job_id.in_(job_ids), Attempt.log_bytes > 0)
        )
        logs = {trainer_log(*row) for row in session.execute(with_log)}
        owners |= logs.intersection(keys)
    of_models = select(Artifact.storage_key).join(Model, Model.id == Artifact.model_id)
    for statement in (
        select(File.storage_key).where(File.storage_key.in_(keys), File.deleted_at.is_(None)),
        select(UploadPart.storage_key).where(UploadPart.storage_key.in_(keys)),
        of_models.where(Artifact.storage_key.in_(keys), Model.deleted_at.is_(None)),
    ):
        owners.update(session.scalars(statement))
    return owners


def due(session: Session) -> Sequence[str]:
    """Return the keys of some due orphans, the oldest first."""
    oldest = (
        select(Orphan.storage_key).where(Orphan.due_at < now_plus_once()).order_by(Orphan.due_at)
    )
    return session.scalars(oldest.limit(SWEPT_AT_ONCE)).all()


def sweep(database: Database, storage: Storage) -> int:
    """Remove due orphans, a few at a time; return how many. Several processes may do it at once."""
    with database.read() as session:
        keys = due(session)
    if not keys:
        return 0
    with database.transaction() as session:
        # Due again later, so that an object that cannot be removed now delays no other.
        again = now_plus(GRACE_PERIOD.total_seconds())
        mark = (
            update(Orphan)
            .where(Orphan.storage_key.in_(keys))
            .values(deleting=True, due_at=again)
            .returning(Orphan.storage_key)
        )
        marked = session.scalars(mark, execution_options=UNSYNCED).all()
    objects = [key for key in marked for key in (storage.keys(key) if key.endswith("/") else [key])]
    for start in range(0, len(objects), CHECKED_AT_ONCE):
        some = objects[start : start + CHECKED_AT_ONCE]
        # An unreferenced object may have got its row since.
        with database.read() as session:
            owned = find_referenced(session, some)
        if unreferenced := [key for key in some if key not in owned]:
            storage.delete(*unreferenced)
    with database.transaction() as session:
        session.execute(
            delete(Orphan).where(Orphan.storage_key.in_(marked)), execution_options=UNSYNCED
        )
    return len(marked)
