"""Rows that a test needs and does not look at."""

from app.models import File, FileStatus


def checked_file(id_: str, project_id: str, storage_key: str = "k") -> File:
    return File(
        id=id_,
        project_id=project_id,
        filename="a",
        purpose="fine-tune",
        bytes=1,
        sha256="0",
        storage_key=storage_key,
        status=FileStatus.PROCESSED,
    )
