import re
from typing import BinaryIO, NamedTuple

from sqlalchemy.orm import Session

from app.errors import IllegalState, InvalidRequest, NotFound, TooLarge
from app.files import repository
from app.files.schemas import PURPOSE
from app.ids import new_id
from app.models import File, FileStatus
from app.settings import Settings
from app.storage import Storage, keys
from app.storage.storage import CHUNK_BYTES

MAX_NAME_LENGTH = 255
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Upload(NamedTuple):
    content: BinaryIO
    size: int
    filename: str | None


def store(storage: Storage, settings: Settings, project_id: str, upload: Upload, purpose: str) -> File:
    """Write the bytes; the row that names them is for the caller to add, afterwards."""
    if purpose != PURPOSE:
        raise InvalidRequest(f"purpose: only '{PURPOSE}' is supported here.", param="purpose")
    if upload.size > settings.max_file_bytes:
        raise TooLarge(f"file: {upload.size} bytes; the limit of this service is {settings.max_file_bytes}.", param="file")
    file_id = new_id("file-")
    key = keys.file_content(project_id, file_id)
    stored = storage.put(key, iter(lambda: upload.content.read(CHUNK_BYTES), b""))
    return File(
        id=file_id,
        project_id=project_id,
        filename=_display_name(upload.filename),
        purpose=purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        storage_key=key,
        status=FileStatus.UPLOADED,
    )


def get(session: Session, project_id: str, file_id: str) -> File:
    file = repository.find(session, project_id, file_id)
    if file is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    return file


def get_usable(session: Session, project_id: str, file_id: str, param: str) -> File:
    """A file of records whose check has found no fault, or has not ended."""
    return _usable(repository.find(session, project_id, file_id), file_id, param)


def get_for_job(
    session: Session, project_id: str, training_file: str, validation_file: str | None, *, lock: bool
) -> tuple[File, File | None]:
    """The files of a new job; refused where a job could only fail."""
    wanted = [file_id for file_id in (training_file, validation_file) if file_id is not None]
    found = {file.id: file for file in repository.find_several(session, project_id, wanted, lock=lock)}
    training = _usable(found.get(training_file), training_file, "training_file")
    return training, None if validation_file is None else _usable(found.get(validation_file), validation_file, "validation_file")


def delete(session: Session, project_id: str, file_id: str) -> None:
    if not repository.find_several(session, project_id, [file_id], lock=True):
        raise NotFound(f"No such File object: {file_id}", param="id")
    job_id = repository.live_job_using(session, file_id)
    if job_id is not None:
        raise IllegalState(f"The file is used by {job_id}, which has not ended; cancel the job first.", code="file_in_use")
    repository.mark_deleted(session, file_id)


def _usable(file: File | None, file_id: str, param: str) -> File:
    if file is None:
        raise InvalidRequest(f"{param}: no such file: {file_id}", param=param, code=f"invalid_{param}")
    if file.purpose != PURPOSE:
        raise InvalidRequest(f"{param}: {file_id} has purpose '{file.purpose}', not '{PURPOSE}'", param=param, code=f"invalid_{param}")
    if file.status == FileStatus.ERROR:
        raise InvalidRequest(f"{param}: {file_id} is not valid: {file.status_details}", param=param, code=f"invalid_{param}")
    return file


def _display_name(filename: str | None) -> str:
    name = re.split(r"[/\\]", filename or "")[-1]
    return CONTROL_CHARACTERS.sub("", name)[:MAX_NAME_LENGTH] or "upload"
