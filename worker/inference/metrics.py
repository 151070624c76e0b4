"""What a running engine takes and does, in its own words."""

import math
import os
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 0.5  # it may be deep in a long prompt
MAX_BYTES = 65_536
GROUP_FIELD, RESIDENT_FIELD = 2, 21  # of proc(5)'s stat, behind the name
NUM_REQUESTS = "llamacpp:requests_processing"
TOKENS_PER_SECOND = "llamacpp:predicted_tokens_seconds"


class Figures(NamedTuple):
    memory_bytes: int | None = None
    num_requests: int | None = None
    tokens_per_second: float | None = None


def read_figures(group: int, address: str, token: str) -> Figures:
    """Return what is known now; None for what the engine does not tell in time."""
    metrics = _parse(_fetch(address, token))
    num_requests = metrics.get(NUM_REQUESTS)
    return Figures(
        _resident_bytes(group),
        None if num_requests is None else int(num_requests),
        metrics.get(TOKENS_PER_SECOND),
    )


def _resident_bytes(group: int) -> int:
    """Return what the processes of a group hold in memory."""
    num_pages = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[GROUP_FIELD]) == group:
                num_pages += int(fields[RESIDENT_FIELD])
    return num_pages * os.sysconf("SC_PAGE_SIZE")


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
    """Read the lines of Prometheus that are a name and a number."""
    metrics = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        try:
            value = float(number)
        except ValueError:
            continue
        if math.isfinite(value):
            metrics[name] = value
    return metrics
