"""The values that the parts of one attempt share."""

from dataclasses import dataclass

from app.models import Job
from worker.attempt.lease import Lease
from worker.attempt.progress import AttemptProgress
from worker.attempt.stop_policy import StopPolicy
from worker.attempt.writer import AttemptWriter
from worker.gateway import Gateway, ObjectStore
from worker.machine.outage import StorageOutage


@dataclass(frozen=True, slots=True)
class AttemptContext:
    gateway: Gateway
    storage: ObjectStore
    job: Job
    lease: Lease
    writer: AttemptWriter
    progress: AttemptProgress
    stop_policy: StopPolicy
    outage: StorageOutage
