from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.http.pagination import Object
from app.inference.repository import ON_A_WORKER
from app.models import Engine


class EngineChange(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    keep_loaded: Annotated[
        bool, Field(description="exempt from making room and from ending when idle")
    ]


class EngineObject(Object):
    """Engine; its id is that of the model, of which each engine has a number."""

    object: Literal["engine"] = "engine"
    replica: int
    status: Literal["waiting", "loading", "ready"]
    reason: Annotated[
        str | None, Field(description="why workers have not loaded an engine that waits")
    ]
    worker: str | None
    keep_loaded: bool
    base_model: Annotated[
        str | None,
        Field(description="for an adapter: the model in memory that it shares with others"),
    ]
    memory_bytes: Annotated[int | None, Field(description="with the latest heartbeat")]
    num_requests: Annotated[int | None, Field(description="requests that it served at that moment")]
    tokens_per_second: Annotated[float | None, Field(description="written, as the engine says")]
    last_used_at: int
    created_at: int

    @classmethod
    def of(cls, engine: Engine, base_model: str | None) -> Self:
        return cls.model_validate(
            {
                "id": engine.model_id,
                "replica": engine.replica,
                "status": engine.state,
                "reason": engine.error_message,
                "worker": engine.owner if engine.state in ON_A_WORKER else None,
                "keep_loaded": engine.keep_loaded,
                "base_model": base_model,
                "memory_bytes": engine.memory_bytes,
                "num_requests": engine.num_requests,
                "tokens_per_second": engine.tokens_per_second,
                "last_used_at": int(engine.used_at.timestamp()),
                "created_at": int(engine.created_at.timestamp()),
            }
        )


class EngineUnloaded(Object):
    object: Literal["engine"] = "engine"
    deleted: bool = True
