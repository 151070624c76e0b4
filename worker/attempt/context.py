"""What the parts of one attempt share."""

from dataclasses import dataclass

from app.models import Job
from worker.attempt.lease import Lease
from worker.attempt.progress import Progress
from worker.attempt.stop_policy import StopPolicy
from worker.attempt.writer import AttemptWriter
from worker.context import WorkerContext
from worker.outage import StorageOutage


@dataclass(frozen=True)
class AttemptContext:
    worker: WorkerContext
    job: Job
    lease: Lease
    writer: AttemptWriter
    progress: Progress
    stop_policy: StopPolicy
    outage: StorageOutage
