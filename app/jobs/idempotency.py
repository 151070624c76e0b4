"""Idempotent creation: a repeated request makes one job, recognised by the caller's own key or, for
clients that send none, by the body and its time.
"""

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import ColumnElement, false, select, true
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import insert_or, now_plus
from app.base.errors import IdempotencyMismatch
from app.models import Job, Submission
from app.models.base import JsonObject

# A client without a key retries within this time; later the same body is a new request.
REPEAT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """Properties that decide if two requests are the same. `retry_count`: as the client counts its
    own retries.
    """

    caller: Caller
    action: str
    body: JsonObject
    key: str | None = None
    retry_count: int = 0

    @property
    def sha256(self) -> str:
        canonical = json.dumps([self.action, self.body], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def find_or_record(session: Session, request: SubmissionRequest, job_id: str) -> Job | None:
    """Record that `request` makes the job `job_id`, whose row must follow in this transaction; or
    return the job that it made before.

    Of two at the same moment the second waits here for the end of the first. Raises
    `IdempotencyMismatch`.
    """
    sha256 = request.sha256
    key = f"key:{request.key}" if request.key is not None else f"{request.caller.key_id}:{sha256}"
    values = {
        "project_id": request.caller.project_id,
        "key": key,
        "request_sha256": sha256,
        "job_id": job_id,
    }
    noted = session.scalar(
        insert_or(session, Submission)
        .values(values)
        .on_conflict_do_update(
            index_elements=[Submission.project_id, Submission.key],
            set_={"job_id": job_id, "created_at": now_plus()},
            where=_is_new_request(request),
        )
        .returning(Submission.job_id)
    )
    if noted is not None:
        return None
    before = session.execute(
        select(Submission, Job)
        .join(Job)
        .where(Submission.project_id == values["project_id"], Submission.key == key)
    )
    submission, job = before.one()
    if submission.request_sha256 != sha256:
        raise IdempotencyMismatch(
            f"Idempotency-Key: '{request.key}' was used for {job.id} with another body; "
            "use a new key for a new job.",
            param="Idempotency-Key",
        )
    return job


def _is_new_request(request: SubmissionRequest) -> ColumnElement[bool]:
    """Return True if the same body again means another job."""
    if request.key is not None:
        return false()
    if request.retry_count == 0:
        return true()
    return Submission.created_at < now_plus(-REPEAT_SECONDS)
