from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from app.http.pagination import Object
from app.models import Attempt, Drain, Job, Worker, WorkerToken
from app.models.strict_model import StrictModel
from falqon_core.contract.diagnosis import Diagnosis


@dataclass(frozen=True, slots=True)
class LiveWorker:
    worker: Worker
    job: Job | None
    attempt: Attempt | None  # of that job
    seconds_since_seen: float
    is_busy: bool  # it has a job, or every card that it may use is taken


class DrainRequest(StrictModel):
    draining: Annotated[
        Drain | None,
        Field(
            strict=False,
            description="finish: take no more jobs; stop: release the job, too, after a "
            "checkpoint; null: take jobs again",
        ),
    ]


class WorkerObject(Object):
    object: Literal["worker"] = "worker"
    machine: Annotated[str, Field(description="host name; workers of one host share its cards")]
    device: str
    num_devices: Annotated[int, Field(description="1 for a GPU; on a CPU, the cores of a slot")]
    max_gpus: Annotated[
        int, Field(description="GPUs of its machine that one job can have; on a CPU its slots")
    ]
    cards: Annotated[
        list[int],
        Field(
            description="cards of its job, by the driver's number, on a CPU slots; empty "
            "while it is idle, and if there is only one without a name"
        ),
    ]
    status: Annotated[
        Literal["idle", "busy"],
        Field(description="busy: it has a job, or every card that it may use is taken"),
    ]
    draining: Annotated[
        Drain | None,
        Field(
            description=(
                "set while it takes no more jobs: finish lets its job end, stop sends the job "
                "back to the queue"
            )
        ),
    ]
    job: Annotated[
        str | None,
        Field(
            description="its job; null also for a job of another project, unless the key "
            "administers the installation"
        ),
    ]
    heartbeat_age_seconds: float
    diagnosis: Annotated[
        Diagnosis | None,
        Field(
            description=(
                "problem that `falqon doctor` reported when the worker started; null on a CPU"
            )
        ),
    ]

    @classmethod
    def of(cls, live: LiveWorker, project_id: str | None) -> Self:
        """Show the job if it is of the project; a project of None restricts nothing."""
        job = live.job
        own_job = job if job and project_id in (None, job.project_id) else None
        return cls(
            id=live.worker.id,
            machine=live.worker.machine,
            device=live.worker.device,
            num_devices=live.worker.num_devices,
            max_gpus=live.worker.max_gpus,
            cards=(live.attempt and live.attempt.cards) or [],
            status="busy" if live.is_busy else "idle",
            draining=live.worker.draining and Drain(live.worker.draining),
            job=own_job and own_job.id,
            heartbeat_age_seconds=round(live.seconds_since_seen, 1),
            diagnosis=live.worker.diagnosis,
        )


class WorkerTokenRequest(StrictModel):
    name: Annotated[
        str,
        StringConstraints(
            min_length=1, max_length=100, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$"
        ),
    ]
    project_ids: Annotated[list[str], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True, slots=True)
class WorkerTokenView:
    """Token without its secret. It is only shown, and in no response of the API."""

    id: str
    name: str
    project_ids: Sequence[str]
    created_at: int

    @classmethod
    def of(cls, token: WorkerToken) -> Self:
        created_at = int(token.created_at.timestamp())
        return cls(token.id, token.name, token.project_ids, created_at)
