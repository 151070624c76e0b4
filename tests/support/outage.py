"""A way to a service over TCP that can be shut: it refuses connections or carries nothing more."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import pytest

from app.base.database import Database
from tests.support.backend import Backend
from tests.support.object_store import ObjectStore
from tests.support.schema import migrate_database

CHUNK_BYTES = 65_536
TICK_SECONDS = 0.05


class Switch:
    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._socket: socket.socket | None = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._is_silent = self._is_cut = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        for thread in list(self._threads):
            thread.join()
        if self._socket is not None:
            self._socket.close()

    def away(self, how: str) -> None:
        """`refusing`: nobody listens and what was open is cut. `silent`: connections stay, and new
        ones are taken, but no byte arrives.
        """
        with self._lock:
            self._is_silent = how == "silent"
            self._is_cut = how == "refusing"
            if self._is_cut and self._socket is not None:
                self._socket.close()
                self._socket = None

    def back(self) -> None:
        """Let everything pass again; connections that were silent are cut."""
        with self._lock:
            if self._socket is None:
                self._socket = socket.create_server(("127.0.0.1", self._port), backlog=128)
            self._is_silent = self._is_cut = False

    def _accept(self) -> None:
        while not self._closing.wait(TICK_SECONDS / 5):
            with self._lock:
                while self._socket is not None and select.select([self._socket], [], [], 0)[0]:
                    client, _ = self._socket.accept()
                    self._threads.append(threading.Thread(target=self._carry, args=[client]))
                    self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            if self._is_silent:
                self._wait_in_silence()
                return
            with socket.create_connection(self._upstream) as server:
                for side in (client, server):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._passes_on(client, server):
                    pass

    def _passes_on(self, client: socket.socket, server: socket.socket) -> bool:
        if self._is_silent:
            self._wait_in_silence()
            return False
        for ready in select.select([client, server], [], [], TICK_SECONDS)[0]:
            try:
                data = ready.recv(CHUNK_BYTES)
                (server if ready is client else client).sendall(data)
            except OSError:
                return False
            if not data:
                return False
        return not (self._is_cut or self._closing.is_set())

    def _wait_in_silence(self) -> None:
        while self._is_silent and not self._closing.wait(TICK_SECONDS):
            pass


@contextmanager
def backend_behind_a_switch(folder: Path, store: ObjectStore) -> Iterator[tuple[Backend, Switch]]:
    """Its objects lie in the store, under the folder's name, and are reached through the switch."""
    with (
        Switch(urlsplit(store.endpoint).port or 0) as switch,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (store.environment | {"AWS_ENDPOINT_URL": switch.url}).items():
            patch.setenv(name, value)
        url = f"sqlite:///{folder / 'data' / 'falqon.db'}"
        database = Database(url)
        migrate_database(database)
        backend = Backend(folder / "data", database, url, storage_url=f"{store.url}/{folder.name}")
        yield backend, switch
        backend.close()
        database.dispose()
