from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, PydanticType
from falqon_core.contract.diagnosis import Diagnosis
from falqon_core.estimate.calibration import Calibration


class Drain(StrEnum):
    """Behaviour of a draining worker with its current job; it takes no more jobs."""

    FINISH = "finish"
    STOP = "stop"  # writes a checkpoint; the job goes back to the queue


class Worker(Base):
    """Process that executes jobs. Its polls show that it is alive; while it has a job, its lease
    does.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    num_devices: Mapped[int]  # usual job; on a CPU, the cores of a slot
    max_gpus: Mapped[int] = mapped_column(default=1, server_default="1")  # largest job
    # Cards that its jobs may have; empty where none has a name, null: not recorded then.
    cards: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    # Projects whose jobs it takes; null: those of every project.
    project_ids: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    seen_at: Mapped[datetime]
    created_at: Mapped[CreatedAt]
    draining: Mapped[str | None]  # null: it takes jobs
    # Problem of a worker that should have a GPU.
    diagnosis: Mapped[Diagnosis | None] = mapped_column(PydanticType(Diagnosis))
    # Measured by a worker that waited for its first job, for a device without measurements.
    calibration: Mapped[Calibration | None] = mapped_column(PydanticType(Calibration))

    @property
    def machine(self) -> str:
        """Return the name of its host, whose cards it shares with the other workers there."""
        return machine_of(self.id)


def machine_of(worker_id: str) -> str:
    return worker_id.rpartition("-")[0]
