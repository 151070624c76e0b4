"""An API that other tests have used, with nothing left waiting or running and no worker around."""

from sqlalchemy import delete, update

from app.models import Job, JobStatus, Worker
from tests.support.api import Api


def quiet(api: Api) -> None:
    unfinished = Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
    with api.database.transaction() as session:
        session.execute(delete(Worker))
        session.execute(
            update(Job)
            .where(unfinished)
            .values(status=JobStatus.CANCELLED, lease_owner=None, lease_expires_at=None)
        )
