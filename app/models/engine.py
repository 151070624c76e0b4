from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, false
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CreatedAt
from app.models.leased import Leased


class EngineState(StrEnum):
    WAITING = "waiting"  # requested; no worker has claimed it yet
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # retried with the next request


class Engine(Leased):
    """A program on a worker that answers for one model; its row goes when the model is unloaded."""

    __tablename__ = "engines"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    state: Mapped[str] = mapped_column(index=True)
    owner: Mapped[str | None]  # the worker that holds it until `lease_expires_at`
    address: Mapped[str | None]
    # Secret of the engine, so that other users of that machine cannot use it.
    token: Mapped[str | None]
    max_answers: Mapped[int | None]  # simultaneous ones; null with an older worker
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
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
