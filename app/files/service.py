import re
from datetime import timedelta

from sqlalchemy.orm import Session

from app.database import Database, now
from app.errors import IllegalState, InvalidRequest, NotFound
from app.files import repository
from app.garbage import orphans
from app.ids import new_id
from app.models import File, FileStatus, Purpose
from app.storage import Stored, keys

MAX_NAME_LENGTH = 255
UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def new_key(project_id: str) -> tuple[str, str]:
    """The id of a file to come, and where its bytes go."""
    file_id = new_id("file-")
    return file_id, keys.file_content(project_id, file_id)


def add(
    session: Session, project_id: str, file_id: str, stored: Stored, *, filename: str, purpose: Purpose, lifetime_seconds: int | None = None
) -> File:
    """The row of bytes that stand under its key."""
    key = keys.file_content(project_id, file_id)
    orphans.adopt(session, key)
    created_at = now(session)
    file = File(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        storage_key=key,
        status=FileStatus.UPLOADED if purpose is Purpose.FINE_TUNE else FileStatus.PROCESSED,
        created_at=created_at,
        expires_at=None if lifetime_seconds is None else created_at + timedelta(seconds=lifetime_seconds),
    )
    session.add(file)
    session.flush()
    return file


def get(session: Session, project_id: str, file_id: str) -> File:
    file = repository.find(session, project_id, file_id)
    if file is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    return file


def get_usable(session: Session, project_id: str, file_id: str, param: str) -> File:
    """A file of records whose check has found no fault, or has not ended."""
    return _usable(session, repository.find(session, project_id, file_id), file_id, param)


def find(session: Session, project_id: str, file_id: str | None) -> File | None:
    return repository.find(session, project_id, file_id) if file_id else None


def get_for_job(
    session: Session, project_id: str, training_file: str, validation_file: str | None, *, lock: bool
) -> tuple[File, File | None]:
    """The files of a new job; refused where a job could only fail."""
    wanted = [file_id for file_id in (training_file, validation_file) if file_id is not None]
    found = {file.id: file for file in repository.find_several(session, project_id, wanted, lock=lock)}
    training = _usable(session, found.get(training_file), training_file, "training_file")
    validation = validation_file and _usable(session, found.get(validation_file), validation_file, "validation_file")
    return training, validation or None


def delete(session: Session, project_id: str, file_id: str) -> None:
    found = repository.find_locked(session, project_id, file_id)
    if found is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    job_id = repository.live_job_using(session, project_id, file_id)
    if job_id is not None:
        raise IllegalState(f"The file is used by {job_id}, which has not ended; cancel the job first.", code="file_in_use", param="id")
    _remove(session, [found])


def remove_expired(database: Database) -> int:
    """Some of them; a file that a job still needs waits for its end."""
    with database.read() as session:
        if not repository.expired(session, lock=False):
            return 0
    with database.transaction() as session:
        # Two statements: a job that took a file while we waited for its lock is seen only by the second.
        locked = repository.expired(session, lock=True)
        free = [file for file in locked if repository.live_job_using(session, file.project_id, file.id) is None]
        _remove(session, free)
        return len(free)


def checked_name(filename: str | None, param: str) -> str:
    """Names are only ever shown; still, one that reads like a path or hides something is more likely an attack than a wish."""
    name = filename or "upload"
    if len(name) > MAX_NAME_LENGTH or name in (".", "..") or re.search(r"[/\\]", name) or UNSHOWABLE.search(name):
        message = f"{param}: a file name has at most {MAX_NAME_LENGTH} characters, no slashes and no control characters."
        raise InvalidRequest(message, param=param, code="invalid_filename")
    return name


def _remove(session: Session, files: list[File]) -> None:
    repository.mark_deleted(session, [file.id for file in files])
    orphans.abandon(session, [file.storage_key for file in files])


def _usable(session: Session, file: File | None, file_id: str, param: str) -> File:
    reason = None
    if file is None:
        reason = f"no such file: {file_id}"
    elif file.purpose != Purpose.FINE_TUNE:
        reason = f"{file_id} has purpose '{file.purpose}', not '{Purpose.FINE_TUNE}'"
    elif file.status == FileStatus.ERROR:
        reason = f"{file_id} is not valid: {file.status_details}"
    elif file.expires_at is not None and file.expires_at <= now(session):
        reason = f"{file_id} has expired"
    if file is None or reason is not None:
        raise InvalidRequest(f"{param}: {reason}", param=param, code=f"invalid_{param}")
    return file
