"""What the service is measured beside: FastAPI and SQLAlchemy on the same tables, with nothing of
what makes it a service.

No API key, no checks, no idempotency, no events, no estimate; `def` endpoints and a pool, as in the
service. A stream tells of a row once it is committed, from one process's memory.
"""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import JSON, BigInteger, Identity, MetaData, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.base.ids import new_id

engine = create_engine(
    "postgresql+psycopg://" + os.environ["DATABASE_URL"].split("://", 1)[1],
    pool_size=10,
    max_overflow=20,
)
tables = MetaData()
tables.reflect(engine, only=["jobs", "events"])
jobs = tables.tables["jobs"]
events = tables.tables["events"]


class BareTable(DeclarativeBase):
    pass


class BareJob(BareTable):
    __tablename__ = "bare_jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)


class BareEvent(BareTable):
    __tablename__ = "bare_events"

    seq: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    topic: Mapped[str]
    message: Mapped[str]


class Asking(BaseModel):
    model: str
    training_file: str
    metadata: dict[str, str] | None = None


class Telling(BaseModel):
    message: str


BareTable.metadata.create_all(engine)
app = FastAPI()
streams: defaultdict[str, set[asyncio.Queue[tuple[int, str]]]] = defaultdict(set)


@app.post("/jobs")
def create_job(body: Asking) -> dict[str, Any]:
    row = {"id": new_id("bare-"), "body": body.model_dump()}
    with Session(engine) as session, session.begin():
        session.add(BareJob(**row))
    return row


@app.get("/jobs/{job_id}")
def retrieve_job(job_id: str) -> dict[str, Any]:
    return _rows(select(jobs).where(jobs.c.id == job_id))[0]


@app.get("/jobs")
def list_jobs(limit: int = 20) -> list[dict[str, Any]]:
    return _rows(select(jobs).order_by(jobs.c.id.desc()).limit(limit))


@app.get("/jobs/{job_id}/events")
def list_events(job_id: str, limit: int = 20) -> list[dict[str, Any]]:
    return _rows(
        select(events).where(events.c.job_id == job_id).order_by(events.c.seq.desc()).limit(limit)
    )


@app.post("/topics/{topic}")
async def tell(topic: str, body: Telling) -> dict[str, int]:
    seq = await asyncio.to_thread(_store, topic, body.message)
    for queue in streams[topic]:
        queue.put_nowait((seq, body.message))
    return {"seq": seq}


@app.get("/topics/{topic}/stream")
async def stream(topic: str) -> EventSourceResponse:
    return EventSourceResponse(_stream(topic))


async def _stream(topic: str) -> AsyncIterator[ServerSentEvent]:
    queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    streams[topic].add(queue)
    try:
        while True:
            seq, message = await queue.get()
            yield ServerSentEvent(json.dumps({"message": message}), id=str(seq))
    finally:
        streams[topic].discard(queue)


def _rows(statement: Any) -> list[dict[str, Any]]:
    with Session(engine) as session:
        return [dict(row) for row in session.execute(statement).mappings()]


def _store(topic: str, message: str) -> int:
    with Session(engine) as session, session.begin():
        seq: int = session.scalars(
            insert(BareEvent).values(topic=topic, message=message).returning(BareEvent.seq)
        ).one()
    return seq
