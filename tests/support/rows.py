"""Rows that a test needs and does not look at."""

from typing import Any

from app.models import Desired, File, FileStatus, Job, JobStatus
from app.models.job_request import JobRequest


def checked_file(id_: str, project_id: str, storage_key: str = "k", **values: Any) -> File:
    columns = {"filename": "a", "purpose": "fine-tune", "status": FileStatus.PROCESSED} | values
    return File(
        id=id_, project_id=project_id, bytes=1, sha256="0", storage_key=storage_key, **columns
    )


def queued_job(id_: str, project_id: str, file_id: str, **values: Any) -> Job:
    columns = {"status": JobStatus.QUEUED, "desired": Desired.RUN, "base_model_id": "tiny"} | values
    request = JobRequest(model="tiny", training_file=file_id)
    return Job(
        id=id_, project_id=project_id, training_file_id=file_id, requested=request, **columns
    )
