"""Figures that an engine reports, in Prometheus' format."""

import math
import re
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 0.5  # The engine may be deep in a long prompt.
MAX_BYTES = 4 * 2**20  # vLLM tells some hundred KiB
NUM_WAITING = ("llamacpp:requests_deferred", "vllm:num_requests_waiting")
SAMPLE_PATTERN = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})?[ \t]+(?P<number>\S+)", re.ASCII)


def read_samples(address: str, token: str) -> dict[str, float]:
    """Return the figures by name; none if the engine does not report them in time."""
    return _parse(_fetch(address, token))


def read_num_waiting(address: str, token: str) -> int:
    """Return how many requests wait for their turn at an engine; 0 where it does not say so."""
    samples = read_samples(address, token)
    return int(next((samples[name] for name in NUM_WAITING if name in samples), 0))


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
