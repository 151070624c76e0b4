"""Metrics of a running engine, as it reports them."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.machine.engine_samples import read_samples

# Fields of proc(5)'s stat behind the name; processor time is the program's and the kernel's.
GROUP_FIELD, CPU_FIELDS, RESIDENT_FIELD = 2, slice(11, 13), 21
NUM_REQUESTS = ("llamacpp:requests_processing", "vllm:num_requests_running")
TOKENS_PER_SECOND = "llamacpp:predicted_tokens_seconds"
NUM_STEPS = "llamacpp:n_decode_total"  # A counter since the start of the engine.
NUM_TOKENS = "vllm:generation_tokens_total"  # A counter since the start of the engine.


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
        metrics = read_samples(self._address, self._token)
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
