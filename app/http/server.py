"""Start of uvicorn, for `falqon api`, alone or as a child of `falqon up`."""

import resource
import sys
from functools import partial
from typing import Any

import uvicorn

from app.base.processes.open_files import raise_open_files
from app.base.settings import Settings, load_settings
from app.http.connections import ConnectionGuard, ConnectionLimits, GuardedProtocol

APP = "app.main:app"
FILES_PER_CONNECTION = 2  # its own, and one that it is sent from or written to
# The event loop accepts so many before it serves any of them: a sixteenth of the files leaves room.
BACKLOG, FILES_PER_WAITING = 2048, 16


def serve(host: str, port: int, grace_seconds: int, app: str = APP) -> None:
    """Serve until SIGTERM or Ctrl-C; open requests then get so many seconds."""
    raise_open_files()
    more = options(load_settings())
    uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=grace_seconds, **more)


def options(settings: Settings) -> dict[str, Any]:
    """Return uvicorn's options except for the address."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = sys.maxsize if files == resource.RLIM_INFINITY else files
    limits = ConnectionLimits(
        min(settings.max_connections, files // FILES_PER_CONNECTION),
        settings.head_timeout.total_seconds(),
        settings.body_timeout.total_seconds(),
    )
    return {
        "http": partial(GuardedProtocol, guard=ConnectionGuard(limits)),
        "ws": "none",
        "backlog": min(BACKLOG, files // FILES_PER_WAITING),
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": settings.forwarded_allow_ips,
    }
