"""Readers of streams: how soon each hears of an event, and what they cost the server."""

import asyncio
import re
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.api.connection import LoadConnection, Request
from benchmarks.api.load import Latency, at_rate
from benchmarks.api.servers import Server

EVENT = re.compile(rb"id: (\d+)\r\ndata: [^\r\n]*?at=(\d+)")
SPARE_DESCRIPTORS = 500
OPENED_AT_ONCE = 50
QUIET_SECONDS = 5.0
BURSTS = 5
PATIENCE_SECONDS = 30.0

Tell = Callable[[str, str], Awaitable[None]]  # append an event with this text to this job


class Reader(asyncio.Protocol):
    def __init__(self, path: str, key: str, latencies: list[float]) -> None:
        headers = f"host: 127.0.0.1\r\nauthorization: Bearer {key}\r\n\r\n"
        self._head = f"GET {path} HTTP/1.1\r\n{headers}".encode()
        self._latencies = latencies
        self._rest = b""
        self._newest = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        text = self._rest + data
        end = 0
        if not self.opened.done():
            self._answered(text)
        for event in EVENT.finditer(text):
            seq = int(event[1])
            end = event.end()
            if seq <= self._newest:
                raise AssertionError(f"event {seq} came after {self._newest}")
            self._newest = seq
            self._latencies.append((now - int(event[2])) / 1e9)
        self._rest = text[end:]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"the stream did not open: {error}"))

    def _answered(self, text: bytes) -> None:
        if text.startswith(b"HTTP/1.1 200 "):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(ConnectionError(text.decode(errors="replace")))


@dataclass(frozen=True, slots=True)
class Delivery:
    steady: Latency  # one event a second on every job, spread over the second
    burst: Latency  # an event on every job at the same moment
    bytes_per_reader: float
    quiet_share: float  # of one core, the server's, while nothing happens
    steady_share: float
    generator_share: float
    retrieve: Latency  # meanwhile
    missing: int


@dataclass(frozen=True, slots=True)
class Streams:
    """What is read: each reader takes one of `jobs`, which `path` leads to."""

    server: Server
    key: str
    jobs: Sequence[str]
    path: Callable[[str], str]
    tell: Tell
    retrieve: Request


def raise_descriptor_limit(num_readers: int) -> None:
    """Raise it for this process and those that it starts."""
    needed = num_readers + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(
            f"{num_readers} readers need {needed} open files and {hard} are allowed: raise ulimit "
            "-Hn or lower --readers."
        )
    resource.setrlimit(
        resource.RLIMIT_NOFILE,
        (max(soft, needed) if soft != resource.RLIM_INFINITY else soft, hard),
    )


async def measure(streams: Streams, *, num_readers: int, seconds: float) -> Delivery:
    latencies: list[float] = []
    warm = await _open(streams, 2 * len(streams.jobs), latencies)
    await _burst(streams, latencies, len(warm))
    before = streams.server.resident_bytes
    readers = await _open(streams, num_readers, latencies)
    listening = len(warm) + len(readers)
    quiet_share = await _share(streams.server, asyncio.sleep(QUIET_SECONDS))

    latencies.clear()
    own = time.process_time()
    started = time.perf_counter()
    connections = [await LoadConnection.open(streams.server.port, streams.key) for _ in range(8)]
    retrieving = asyncio.create_task(
        at_rate(connections, lambda: streams.retrieve, rate=20, seconds=seconds)
    )
    steady_share = await _share(streams.server, _steadily(streams, seconds))
    generator_share = (time.process_time() - own) / (time.perf_counter() - started)
    event = int(seconds) * listening
    missing = event - await _arrived(latencies, event)
    steady = Latency.of(latencies)

    latencies.clear()
    for _ in range(BURSTS):
        missing += await _burst(streams, latencies, listening)
    bytes_per_reader = (streams.server.resident_bytes - before) / num_readers
    for connection in connections:
        await connection.close()
    for reader in (*warm, *readers):
        assert reader.transport is not None
        reader.transport.abort()
    return Delivery(
        steady,
        Latency.of(latencies),
        bytes_per_reader,
        quiet_share,
        steady_share,
        generator_share,
        Latency.of(await retrieving),
        missing,
    )


async def _open(streams: Streams, count: int, latencies: list[float]) -> list[Reader]:
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(OPENED_AT_ONCE)

    async def open_reader(number: int) -> Reader:
        async with places:
            reader = Reader(
                streams.path(streams.jobs[number % len(streams.jobs)]), streams.key, latencies
            )
            await loop.create_connection(lambda: reader, "127.0.0.1", streams.server.port)
            await reader.opened
            return reader

    return await asyncio.gather(*(open_reader(number) for number in range(count)))


async def _steadily(streams: Streams, seconds: float) -> None:
    """Publish as trainers report: about once a second each."""
    async with asyncio.TaskGroup() as group:
        started = time.perf_counter()
        for number in range(int(seconds) * len(streams.jobs)):
            await asyncio.sleep(started + number / len(streams.jobs) - time.perf_counter())
            group.create_task(_tell(streams, streams.jobs[number % len(streams.jobs)]))


async def _burst(streams: Streams, latencies: list[float], listening: int) -> int:
    """Return how many did not hear of it."""
    expected = len(latencies) + listening
    await asyncio.gather(*(_tell(streams, job) for job in streams.jobs))
    missing = expected - await _arrived(latencies, expected)
    await asyncio.sleep(0.5)
    return missing


async def _tell(streams: Streams, job: str) -> None:
    await streams.tell(job, f"at={time.monotonic_ns()}")


async def _arrived(latencies: list[float], expected: int) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(latencies) < expected and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return len(latencies)


async def _share(server: Server, work: Awaitable[None]) -> float:
    """Return the share of one core that the server took meanwhile."""
    cpu = server.cpu_seconds
    started = time.perf_counter()
    await work
    return (server.cpu_seconds - cpu) / (time.perf_counter() - started)
