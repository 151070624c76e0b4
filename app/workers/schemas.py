from typing import Annotated, Literal, Self

from pydantic import Field

from app.http.pagination import Object
from app.workers.service import Live


class WorkerObject(Object):
    object: Literal["worker"] = "worker"
    device: str
    num_devices: Annotated[int, Field(description="on a CPU, its cores")]
    status: Literal["idle", "busy"]
    job: Annotated[str | None, Field(description="what it executes; null also for a job of another project")]
    heartbeat_age_seconds: float

    @classmethod
    def of(cls, live: Live, project_id: str) -> Self:
        job = live.job
        return cls(
            id=live.worker.id,
            device=live.worker.device,
            num_devices=live.worker.num_devices,
            status="busy" if job else "idle",
            job=job.id if job and job.project_id == project_id else None,
            heartbeat_age_seconds=round(live.seconds_since_seen, 1),
        )
