"""A port of its own for Prometheus, without a key: who reaches it is decided by its address."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

log = structlog.get_logger()


class _All(Collector):
    """The metrics of this process, and more."""

    def __init__(self, more: CollectorRegistry | None) -> None:
        self._more = more

    def collect(self) -> Iterable[Metric]:
        yield from REGISTRY.collect()
        if self._more is not None:
            yield from self._more.collect()


@contextmanager
def metrics_port(
    port: int | None, host: str, more: CollectorRegistry | None = None
) -> Iterator[None]:
    """Answer at the port, if there is one. Raises `OSError` if it is taken."""
    if port is None:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All(more))
    server, thread = start_http_server(port, host, registry)
    log.info("metrics", address=f"http://{host}:{port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
