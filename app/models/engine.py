from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, false
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CreatedAt
from app.models.leased import Leased


class EngineState(StrEnum):
    WAITING = "waiting"  # somebody asked the model; no worker has taken it yet
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # until somebody asks again


class Engine(Leased):
    """A program on a worker that answers for one model; its row goes when the model is unloaded."""

    __tablename__ = "engines"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    state: Mapped[str] = mapped_column(index=True)
    owner: Mapped[str | None]  # the worker that holds it until `lease_expires_at`
    address: Mapped[str | None]
    token: Mapped[str | None]  # what the engine asks for, so that nobody else on that machine may
    max_answers: Mapped[int | None]  # that it gives at once; null with an older worker
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    used_at: Mapped[datetime]
    # It makes no room for others, and idle time does not end it.
    keep_loaded: Mapped[bool] = mapped_column(default=False, server_default=false())
    # As its worker saw it with its latest heartbeat; null where that is not known.
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    num_requests: Mapped[int | None]  # that it answers just then
    tokens_per_second: Mapped[float | None]
    created_at: Mapped[CreatedAt]
