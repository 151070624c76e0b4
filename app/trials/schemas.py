from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.http.pagination import Object
from app.models import Trial
from app.operations.schemas import OperationError

MAX_PROMPT_CHARACTERS = 8_000
MAX_TOKENS = 512


class TrialRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS, description="of each answer")] = 128


class TrialObject(Object):
    object: Literal["model.trial"] = "model.trial"
    model: str
    base_model: Annotated[str | None, Field(description="answers the same prompt; null where the model has none")]
    prompt: str
    max_tokens: int
    status: Literal["in_progress", "completed", "failed"]
    error: Annotated[OperationError | None, Field(description="why it failed")]
    answer: Annotated[str, Field(description="of the model; grows while the trial is in progress")]
    base_answer: Annotated[str | None, Field(description="of the base model, which answers second")]
    created_at: int

    @classmethod
    def of(cls, trial: Trial) -> Self:
        return cls.model_validate(
            {
                "id": trial.id,
                "model": trial.model_id,
                "base_model": trial.base_model_id,
                "prompt": trial.prompt,
                "max_tokens": trial.max_tokens,
                "status": trial.status,
                "error": OperationError.of(trial),
                "answer": trial.answer,
                "base_answer": trial.base_answer if trial.base_model_id else None,
                "created_at": int(trial.created_at.timestamp()),
            }
        )
