"""The address where a worker serves its metrics to Prometheus, if any."""

import structlog
from prometheus_client import start_http_server

from app.base.settings import Settings

MAX_PORTS = 64  # Ports that workers of one machine may use, one after the other.
LAST_PORT = 65_535

log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Answer at the first free port from the one that is set; several workers of a machine are told
    the same.
    """
    first = settings.metrics_port
    if first is None:
        return
    last = min(first + MAX_PORTS - 1, LAST_PORT)
    for port in range(first, last + 1):
        try:
            start_http_server(port, settings.metrics_host)
        except OSError as error:
            reason = error.strerror
            continue
        log.info("metrics", address=f"http://{settings.metrics_host}:{port}/metrics")
        return
    raise SystemExit(
        f"FALQON_METRICS_PORT: {settings.metrics_host} has no free port from {first} to {last} "
        f"({reason}); choose another."
    )
