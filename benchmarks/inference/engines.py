"""What is asked: llama.cpp on a worker, or an engine that only keeps a pace."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx

from app.base.database import Database
from app.base.processes.parent_death import command_dying_with_parent
from app.models import Engine
from app.notifier.queues import CPU_QUEUE, worker_command
from benchmarks.api.servers import KEY, ROOT, STOP_SECONDS, LoadServices, Server
from benchmarks.inference.client import PATH, Door

LOAD_SECONDS = 300.0


@contextmanager
def paced_engine(tokens_per_second: float) -> Iterator[Door]:
    command = [sys.executable, "-m", "benchmarks.inference.paced_engine", f"{tokens_per_second}"]
    with subprocess.Popen(
        command_dying_with_parent(command), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Door(process.stdout.readline().strip(), "")
        finally:
            process.kill()


def with_engine(services: LoadServices, door: Door) -> LoadServices:
    """Return them as told of an operator's own engine."""
    return replace(
        services, environment={**services.environment, "FALQON_ENGINE_URL": door.address}
    )


@contextmanager
def worker(services: LoadServices) -> Iterator[None]:
    """A worker that loads what is asked for."""
    with (services.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            command_dying_with_parent(worker_command(CPU_QUEUE)),
            env=services.environment,
            cwd=services.folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load_model(server: Server, database: Database, model: str) -> Door:
    """Return where the worker's engine itself is asked."""
    question = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(
        f"http://127.0.0.1:{server.port}{PATH}",
        headers={"authorization": f"Bearer {KEY}"},
        json=question | {"max_tokens": 1},
        timeout=LOAD_SECONDS,
    )
    answer.raise_for_status()
    with database.read() as session:
        engine = session.get_one(Engine, (model, 0))
    assert engine.address is not None
    return Door(engine.address, engine.token or "")
