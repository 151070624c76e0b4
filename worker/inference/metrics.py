"""Metrics of a running engine, as it reports them."""

import math
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 0.5  # The engine may be deep in a long prompt.
MAX_BYTES = 4 * 2**20  # vLLM tells some hundred KiB
# Fields of proc(5)'s stat behind the name; processor time is the program's and the kernel's.
GROUP_FIELD, CPU_FIELDS, RESIDENT_FIELD = 2, slice(11, 13), 21
NUM_REQUESTS = ("llamacpp:requests_processing", "vllm:num_requests_running")
TOKENS_PER_SECOND = "llamacpp:predicted_tokens_seconds"
NUM_STEPS = "llamacpp:n_decode_total"  # A counter since the start of the engine.
NUM_TOKENS = "vllm:generation_tokens_total"  # A counter since the start of the engine.
SAMPLE_PATTERN = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})?[ \t]+(?P<number>\S+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Figures:
    memory_bytes: int | None = None
    num_requests: int | None = None
    tokens_per_second: float | None = None


class EngineMetrics:
    """The metrics of the programs of a process group at an address, read again and again.

    `num_steps`: the tokens or parts of a prompt that the engine has computed since its start, as
    last reported; `cpu_seconds`: the processor time of all its programs.
    """

    def __init__(self, group: int, address: str, token: str) -> None:
        self._group = group
        self._address = address
        self._token = token
        self._num_tokens: float | None = None
        self._counted_at = 0.0
        self.num_steps: float | None = None
        self.cpu_seconds = 0.0

    def read(self) -> Figures:
        """Return the current figures; None for each that the engine does not report in time."""
        metrics = _parse(_fetch(self._address, self._token))
        num_requests = next((metrics[name] for name in NUM_REQUESTS if name in metrics), None)
        tokens_per_second = metrics.get(TOKENS_PER_SECOND)
        if NUM_TOKENS in metrics:
            tokens_per_second = self._rate_of(metrics[NUM_TOKENS])
        self.num_steps = metrics.get(NUM_STEPS, self.num_steps)
        memory_bytes, self.cpu_seconds = _usage_of(self._group)
        return Figures(
            memory_bytes, None if num_requests is None else int(num_requests), tokens_per_second
        )

    def _rate_of(self, num_tokens: float) -> float | None:
        """Return the tokens a second since the last reading."""
        before, self._num_tokens = self._num_tokens, num_tokens
        counted_at, self._counted_at = self._counted_at, time.monotonic()
        if before is None or num_tokens < before:
            return None
        return (num_tokens - before) / (self._counted_at - counted_at)


def _usage_of(group: int) -> tuple[int, float]:
    """Return the bytes that the processes of a group hold in memory, and their CPU seconds."""
    num_pages = 0
    num_ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[GROUP_FIELD]) == group:
                num_pages += int(fields[RESIDENT_FIELD])
                num_ticks += sum(map(int, fields[CPU_FIELDS]))
    return num_pages * os.sysconf("SC_PAGE_SIZE"), num_ticks / os.sysconf("SC_CLK_TCK")


def _fetch(address: str, token: str) -> str:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {token}"})
        return connection.getresponse().read(MAX_BYTES).decode(errors="replace")
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()


def _parse(text: str) -> dict[str, float]:
    """Sum Prometheus' samples by name, whatever their labels: vLLM has one for each engine."""
    metrics: dict[str, float] = {}
    for line in text.split("\n")[:-1]:  # The last line may be cut.
        sample = SAMPLE_PATTERN.match(line)
        if sample is None:
            continue
        name, number = sample.group("name", "number")
        try:
            value = float(number)
        except ValueError:
            continue
        if math.isfinite(value):
            metrics[name] = metrics.get(name, 0.0) + value
    return metrics
