"""A way over TCP to a Unix socket that can fall silent, as when a firewall forgets a connection: no
FIN, no RST, and no byte arrives.
"""

import select
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536


class Link:
    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}/0"
        self._carried: set[socket.socket] = set()  # by their client's end
        self._silent: set[socket.socket] = set()
        self.swallowed = 0  # bytes
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        for thread in list(self._threads):
            thread.join()
        self._socket.close()

    def fall_silent(self) -> int:
        """On every connection that there is; returns how many. New ones carry again."""
        silenced = self._carried - self._silent
        self._silent |= silenced
        return len(silenced)

    def _accept(self) -> None:
        while not self._closing.is_set():
            if select.select([self._socket], [], [], 0.05)[0]:
                client, _ = self._socket.accept()
                thread = threading.Thread(target=self._carry, args=[client])
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server:
            try:
                server.connect(self._target)
            except OSError:  # nobody serves there
                return
            self._carried.add(client)
            while not self._closing.is_set() and self._pass_on(client, server):
                pass
            self._carried.discard(client)
            self._silent.discard(client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Whether the connection goes on."""
        for end, other in ((client, server), (server, client)):
            if not select.select([end], [], [], 0.005)[0]:
                continue
            try:
                data = end.recv(CHUNK_BYTES)
                if client in self._silent:
                    self.swallowed += len(data)
                    return bool(data) or end is server
                other.sendall(data)
            except OSError:
                return False
            if not data:
                return False
        return True
