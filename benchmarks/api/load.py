"""Load at a rate, and as much as a server takes."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.api.connection import LoadConnection, Request
from benchmarks.api.servers import Server

CONNECTIONS = 32  # as many requests of one rate may be under way
BUSY_CONNECTIONS = 8  # that ask again at once, when it is about how many requests a server takes
WARM_UP_REQUESTS = 40

Make = Callable[[], Request]


class Latency(NamedTuple):
    """Seconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Latency":
        ordered = sorted(seconds)
        return cls(
            ordered[math.ceil(0.50 * len(ordered)) - 1], ordered[math.ceil(0.99 * len(ordered)) - 1]
        )


@dataclass(frozen=True, slots=True)
class LoadResult:
    at_rate: Latency
    most_per_second: float
    cpu_seconds: float  # of the server, for one request; Postgres has its own
    generator_share: float  # of one core, while the server was given all it takes


async def measure(
    server: Server, key: str, make: Make, *, rate: float, seconds: float, busy_seconds: float
) -> LoadResult:
    connections = [await LoadConnection.open(server.port, key) for _ in range(CONNECTIONS)]
    for number in range(WARM_UP_REQUESTS):
        await connections[number % CONNECTIONS].send(make())
    latency = Latency.of(await at_rate(connections, make, rate=rate, seconds=seconds))
    own = time.process_time()
    cpu = server.cpu_seconds
    started = time.perf_counter()
    count = await _as_many_as_possible(connections[:BUSY_CONNECTIONS], make, busy_seconds)
    elapsed = time.perf_counter() - started
    for connection in connections:
        await connection.close()
    return LoadResult(
        latency,
        count / elapsed,
        (server.cpu_seconds - cpu) / count,
        (time.process_time() - own) / elapsed,
    )


async def at_rate(
    connections: list[LoadConnection], make: Make, *, rate: float, seconds: float
) -> list[float]:
    """Latencies of requests that come as those of many users do: at random, whether or not earlier
    ones are answered.

    Each counts from the moment it was due, so what waits because the server is behind is not
    forgotten.
    """
    chance = random.Random(0)
    # in turn: uvicorn closes one that rests for 5 seconds
    idle: asyncio.Queue[LoadConnection] = asyncio.Queue()
    for connection in connections:
        idle.put_nowait(connection)
    latencies: list[float] = []

    async def send_at(due: float) -> None:
        connection = await idle.get()
        await connection.send(make())
        latencies.append(time.perf_counter() - due)
        idle.put_nowait(connection)

    async with asyncio.TaskGroup() as group:
        due = time.perf_counter()
        end = due + seconds
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(send_at(due))
    return latencies


async def _as_many_as_possible(
    connections: list[LoadConnection], make: Make, seconds: float
) -> int:
    end = time.perf_counter() + seconds

    async def again_and_again(send: Callable[[Request], Awaitable[bytes]]) -> int:
        count = 0
        while time.perf_counter() < end:
            await send(make())
            count += 1
        return count

    return sum(
        await asyncio.gather(*(again_and_again(connection.send) for connection in connections))
    )
