"""Removal of files, by their user or once they have expired."""

from sqlalchemy.orm import Session

from app.base.database import Database
from app.base.errors import IllegalState
from app.files import repository
from app.files.lookup import get
from app.garbage import orphans
from app.models import File


def delete(session: Session, project_id: str, file_id: str) -> None:
    file = get(session, project_id, file_id, lock=True)
    user_id = repository.find_user(session, project_id, file_id)
    if user_id is not None:
        raise IllegalState(
            f"The file is used by {user_id}, which has not ended; cancel it first.",
            code="file_in_use",
            param="id",
        )
    _remove(session, [file])


def remove_expired(database: Database) -> int:
    """Remove some of them and return how many; a file that is needed waits for the end of that."""
    with database.read() as session:
        if not repository.list_expired(session, lock=False):
            return 0
    with database.transaction() as session:
        # Two statements: only the second sees who took a file while the first waited for its
        # lock.
        locked = repository.list_expired(session, lock=True)
        free = [
            file
            for file in locked
            if repository.find_user(session, file.project_id, file.id) is None
        ]
        _remove(session, free)
        return len(free)


def _remove(session: Session, files: list[File]) -> None:
    repository.mark_deleted(session, [file.id for file in files])
    orphans.mark_orphaned(session, [file.storage_key for file in files])
