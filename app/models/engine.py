from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, BigInteger, ForeignKey, false
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CreatedAt
from app.models.leased import Leased


class EngineState(StrEnum):
    WAITING = "waiting"  # requested; no worker has claimed it yet
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # retried with the next request


class Engine(Leased):
    """A program on a worker that answers for one model; its row goes when it is unloaded. A model
    has as many as it has replicas, each on a worker of its own.
    """

    __tablename__ = "engines"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    # Number among the engines of the model, from 0; those from the model's `replicas` on are
    # surplus, and end once they are unused.
    replica: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, default=0, server_default="0"
    )
    state: Mapped[str] = mapped_column(index=True)
    owner: Mapped[str | None]  # the worker that holds it until `lease_expires_at`
    address: Mapped[str | None]
    # Secret of the engine, so that other users of that machine cannot use it.
    token: Mapped[str | None]
    max_answers: Mapped[int | None]  # simultaneous ones; null with an older worker
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    # Workers that cannot load it, since it was last requested; the error is that of the last one.
    declined_by: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    used_at: Mapped[datetime]
    # Exempt from making room for others and from the idle timeout.
    keep_loaded: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Only batches have asked for it, so it takes no place of a model that was just in use.
    is_patient: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Figures of the latest heartbeat; null if unknown.
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    num_requests: Mapped[int | None]  # requests that it serves at the moment
    tokens_per_second: Mapped[float | None]
    created_at: Mapped[CreatedAt]
