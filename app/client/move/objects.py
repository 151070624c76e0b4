"""The objects of an account at OpenAI, as far as a move needs them."""

import re
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.base.plain_words import in_plain_words
from app.client.api import Json
from app.client.errors import Refused

HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
NOT_IN_SUFFIX = re.compile(r"[^A-Za-z0-9._-]+")
MAX_SUFFIX_LENGTH = 64
NUM_MODEL_FIELDS = 5  # ft:base:organization:suffix:id


class OriginObject(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str


class OriginFile(OriginObject):
    filename: str
    bytes: int = Field(ge=0)


class OriginMethod(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    type: str

    @property
    def hyperparameters(self) -> Json:
        options = (self.model_extra or {}).get(self.type)
        values = options.get("hyperparameters") if isinstance(options, dict) else None
        return values if isinstance(values, dict) else {}


class OriginJob(OriginObject):
    model: str
    status: str
    created_at: int
    training_file: str
    validation_file: str | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    method: OriginMethod | None = None  # Older jobs have none; they were supervised.
    hyperparameters: dict[str, Any] | None = None  # the older place
    integrations: list[Any] | None = None
    suffix: str | None = None
    user_provided_suffix: str | None = None

    @property
    def method_type(self) -> str:
        return self.method.type if self.method else "supervised"

    @property
    def settings(self) -> dict[str, int | float | Literal["auto"]]:
        """Return its hyperparameters: those of the method, then those of the older place."""
        places = (self.method.hyperparameters if self.method else {}, self.hyperparameters or {})
        merged = {
            name: value
            for place in reversed(places)
            for name, value in place.items()
            if value is not None
        }
        return {name: merged[name] for name in HYPERPARAMETERS if name in merged}

    @property
    def files(self) -> list[str]:
        return [self.training_file, *([self.validation_file] if self.validation_file else [])]

    @property
    def clean_suffix(self) -> str | None:
        """Return the suffix, from the model's name where the job does not say it."""
        suffix = self.suffix or self.user_provided_suffix
        fields = (self.fine_tuned_model or "").split(":")
        if suffix is None and len(fields) == NUM_MODEL_FIELDS:
            suffix = fields[3]
        return NOT_IN_SUFFIX.sub("-", suffix or "")[:MAX_SUFFIX_LENGTH] or None


Parsed = TypeVar("Parsed", bound=OriginObject)


def parse(kind: type[Parsed], value: Json) -> Parsed:
    """Raises `Refused` for what is not such an object."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(map(str, fault["loc"]))
        raise Refused(
            f"{value.get('id', 'An object')} there is not as OpenAI describes it: "
            f"{field}: {in_plain_words(fault)}"
        ) from None
