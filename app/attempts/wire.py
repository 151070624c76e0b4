"""Values of attempts as JSON, and back."""

from typing import TypeVar

from pydantic import BaseModel

from app.attempts.values import Claimed, Inputs
from app.models import Artifact, Base, Checkpoint, File, Job
from app.models.base import JsonObject, PydanticType
from falqon_core.estimate.prices import Price

# Fields that a worker reads from each row: no secret, and nothing of other projects.
COLUMNS: dict[type[Base], tuple[str, ...]] = {
    Artifact: ("model_id", "name", "bytes", "sha256", "storage_key"),
    Checkpoint: (
        *("id", "job_id", "attempt", "step", "storage_prefix", "manifest_sha256"),
        *("bytes", "metrics"),
    ),
    File: ("id", "project_id", "filename", "bytes", "sha256", "storage_key"),
    Job: (
        *("id", "project_id", "request_id", "traceparent", "attempt", "num_gpus"),
        *("base_model_id", "base_checkpoint_id", "training_file_id", "validation_file_id"),
        *("suffix", "requested", "recipe", "estimate", "budget", "progress"),
        *("device_seconds", "execution_seconds"),
    ),
}
T = TypeVar("T", bound=Base)


class ClaimedJson(BaseModel):
    job: JsonObject
    price: Price

    @classmethod
    def of(cls, claimed: Claimed) -> "ClaimedJson":
        return cls(job=dump(claimed.job), price=claimed.price)

    def value(self) -> Claimed:
        return Claimed(load(Job, self.job), self.price)


class BaseJson(BaseModel):
    id: str
    job: JsonObject
    checkpoint: JsonObject


class InputsJson(BaseModel):
    files: list[JsonObject]
    checkpoints: list[JsonObject]
    bases: list[BaseJson]
    began_from: dict[str, str] = {}  # An older service does not send it.
    artifacts: dict[str, list[JsonObject]]
    base_config: JsonObject
    model_id: str

    @classmethod
    def of(cls, inputs: Inputs) -> "InputsJson":
        return cls(
            files=list(map(dump, inputs.files)),
            checkpoints=list(map(dump, inputs.checkpoints)),
            bases=[
                BaseJson(id=id_, job=dump(job), checkpoint=dump(checkpoint))
                for id_, (job, checkpoint) in inputs.bases.items()
            ],
            began_from=dict(inputs.began_from),
            artifacts={id_: list(map(dump, rows)) for id_, rows in inputs.artifacts.items()},
            base_config=inputs.base_config,
            model_id=inputs.model_id,
        )

    def value(self) -> Inputs:
        return Inputs(
            files=[load(File, row) for row in self.files],
            checkpoints=[load(Checkpoint, row) for row in self.checkpoints],
            bases={
                base.id: (load(Job, base.job), load(Checkpoint, base.checkpoint))
                for base in self.bases
            },
            began_from=self.began_from,
            artifacts={
                id_: [load(Artifact, row) for row in rows] for id_, rows in self.artifacts.items()
            },
            base_config=self.base_config,
            model_id=self.model_id,
        )


def dump(row: Base) -> JsonObject:
    """Return the fields that a worker reads from a row."""
    columns = type(row).__table__.columns
    values: JsonObject = {}
    for name in COLUMNS[type(row)]:
        value = getattr(row, name)
        kind = columns[name].type
        if value is not None and isinstance(kind, PydanticType):
            value = kind.dump(value)
        values[name] = value
    return values


def load(table: type[T], values: JsonObject) -> T:
    """Return a detached row."""
    columns = table.__table__.columns
    loaded: JsonObject = {}
    for name in COLUMNS[table]:
        value = values[name]
        kind = columns[name].type
        if value is not None and isinstance(kind, PydanticType):
            value = kind.load(value)
        loaded[name] = value
    return table(**loaded)
