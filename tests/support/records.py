"""What a service has recorded of its jobs, read from its database and storage."""

from sqlalchemy import select

from app.base.database import Database
from app.base.storage import Storage
from app.jobs import repository
from app.models import Artifact, Attempt, Checkpoint, Event, Job

MAX_EVENTS = 1_000_000


class Records:
    def __init__(self, database: Database, storage: Storage) -> None:
        self.database = database
        self.storage = storage

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str) -> list[Event]:
        with self.database.read() as session:
            return repository.events_after(session, job_id, after=0, limit=MAX_EVENTS)

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.read() as session:
            return list(
                session.scalars(
                    select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)
                )
            )

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        with self.database.read() as session:
            return list(
                session.scalars(
                    select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)
                )
            )

    def weights(self, job_id: str) -> bytes:
        return self.artifact(job_id, "model.safetensors")

    def artifact(self, job_id: str, name: str) -> bytes:
        """A file of the model that the job made."""
        with self.database.read() as session:
            model_id = session.get_one(Job, job_id).fine_tuned_model_id
            artifact = session.get_one(Artifact, (model_id, name))
        return b"".join(self.storage.chunks(artifact.storage_key))
