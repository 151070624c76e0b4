"""`certificate.json`: the proof, in the folder of a model, that its files are what was trained.

A process that knows nothing of the training reloads the finished files and compares them with what
the trainer held when it ended. The same training on the same machine gives the same certificate: no
time of day is part of it.
"""

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.config import Recipe

CERTIFICATE = "certificate.json"

CheckName = Literal["codes_and_scales", "other_tensors", "tokenizer", "loss", "logits", "canary"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Check(Part):
    """One comparison. `difference` and `bound` are null where bits must be equal."""

    name: CheckName
    passed: bool
    strict: bool = Field(
        True, description="false: where it does not pass, the model is handed out with a warning"
    )
    detail: str = Field(description="what was compared and what came out, for people")
    difference: float | None = None
    bound: float | None = None


class HeldOut(Part):
    """The rows whose loss and logits were compared; each is cut to its first tokens."""

    source: Literal["validation", "training"] = Field(
        description="training: there was no validation data"
    )
    num_rows: int
    num_tokens: int


class Canary(Part):
    """What both models answer, greedily, to a prompt that every certificate asks."""

    prompt: str
    trainer: str
    reloaded: str


class FileHash(Part):
    name: str
    bytes: int
    sha256: str


class CertifiedBase(Part):
    name: str
    sha256: str = Field(
        description="of the lines 'sha256  name' of the folder's files, sorted by name"
    )


class Data(Part):
    """sha256 of the JSONL files."""

    train: str
    validation: str | None


class Training(Part):
    """`recipe`: what ran, every "auto" resolved; `metrics`: of the step whose model this is, and
    its validation losses merged, with weights and with weights and activations in FP8.
    """

    recipe: Recipe
    steps: int
    best_step: int | None
    num_records: int
    trained_tokens: int
    num_threads: int
    num_processes: int
    metrics: dict[str, float]


class Software(Part):
    falqon: str
    source_sha256: str = Field(
        description="of the trainer's own source files, as `Base.sha256` is made"
    )
    python: str
    libraries: dict[str, str]


class Device(Part):
    type: str
    name: str
    fallback_kernels: list[str] = Field(
        [], description="operators that plain torch computed, since their kernels failed here"
    )


class AccruedCost(Part):
    currency: str
    accrued: Decimal = Field(
        description="of all attempts, until the model was trained, compared and about to be "
        "uploaded"
    )
    usd_per_device_hour: Decimal
    price_source: str


class Service(Part):
    """Facts of the service; null for a training by hand. `cost` is null where no price is known."""

    job: str
    model: str
    cost: AccruedCost | None


class Certificate(Part):
    version: Literal[1] = 1
    checks: list[Check]
    held_out: HeldOut
    canary: Canary
    base: CertifiedBase
    data: Data
    training: Training
    software: Software
    device: Device
    files: list[FileHash] = Field(
        description="every file of the folder but this one and SHA256SUMS, which names this one"
    )
    service: Service | None = None

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.strict and not check.passed]

    @property
    def doubtful(self) -> list[Check]:
        return [check for check in self.checks if not (check.strict or check.passed)]
