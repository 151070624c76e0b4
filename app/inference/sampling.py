"""Sampling beyond OpenAI's fields: what engines have besides, under each engine's own names."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.base.errors import InvalidRequest

EngineKind = Literal["llama.cpp", "other"]  # vLLM and compatible servers

ALL_TOKENS = 8_192  # the longest context of llama.cpp here
LEAST_TOP_P = 1e-6  # vLLM takes no 0
MISSING_FIELDS: dict[EngineKind, dict[str, str]] = {
    "llama.cpp": {
        "min_tokens": "llama.cpp, the engine of this model, has no shortest answer; leave it out",
        "stop_token_ids": "llama.cpp, the engine of this model, stops at texts; send stop",
    },
    "other": {},
}


class EngineSampling(BaseModel):
    """Fields that only engines have; a request with one of them needs to know its engine."""

    top_k: Annotated[int | None, Field(ge=-1, lt=2**31, description="0 and -1: all tokens")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[
        float | None, Field(gt=0, le=10, description="over prompt and answer")
    ] = None
    repeat_penalty: Annotated[
        float | None, Field(gt=0, le=10, description="llama.cpp's: over the last 64 tokens")
    ] = None
    min_tokens: Annotated[int | None, Field(ge=0, description="vLLM only")] = None
    stop_token_ids: Annotated[list[int] | None, Field(max_length=64, description="vLLM only")] = (
        None
    )
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _penalise_once(self) -> Self:
        if self.repetition_penalty is not None and self.repeat_penalty is not None:
            raise ValueError("repeat_penalty: the same as repetition_penalty; send one of the two")
        return self


OWN_FIELDS = frozenset(EngineSampling.model_fields)


def name_for_engine(fields: dict[str, Any], kind: EngineKind) -> dict[str, Any]:
    """Return the fields under the engine's names. Raises `InvalidRequest` for a field that it does
    not have.
    """
    for name, advice in MISSING_FIELDS[kind].items():
        if fields.get(name):
            raise InvalidRequest(f"{name}: {advice}.", param=name, code="unsupported_parameter")
    named = {name: value for name, value in fields.items() if name not in MISSING_FIELDS[kind]}
    if kind == "llama.cpp" and "repetition_penalty" in named:
        named["repeat_penalty"] = named.pop("repetition_penalty")
        named["repeat_last_n"] = ALL_TOKENS
    if kind == "other" and "repeat_penalty" in named:
        named["repetition_penalty"] = named.pop("repeat_penalty")
    return named


def seed_for_engine(seed: int) -> int:
    """Return a seed of 31 bits: llama.cpp's have 32, of which the last one, as -1, means any."""
    return seed % 2**31
