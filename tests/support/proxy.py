"""A TCP proxy before a service, to lose what a network loses: whole answers, or all of one behind
some byte.
"""

import re
import select
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK_BYTES = 4096
MAX_HEAD_BYTES = 16_384
HEAD = re.compile(rb"[A-Z]+ /\S* HTTP/1\.1\r\n.*?\r\n\r\n", re.DOTALL)


class Proxy:
    def __init__(self, port: int, at: int = 0) -> None:
        """`at`: the port it listens on itself; 0: any."""
        self._upstream = ("127.0.0.1", port)
        self._socket = socket.create_server(("127.0.0.1", at))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[str] = []  # heads, as they were sent
        self.forget = b""  # a header's name, of which the upstream hears nothing
        self.cut_after: int | None = None  # bytes towards the client, on every connection
        # the answer to the next request that begins like this regular expression, once
        self.lose = "nothing"
        self.lost = 0
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing listens any more, and every connection is cut."""
        if self._closing.is_set():
            return
        self._closing.set()
        for thread in list(self._threads):
            thread.join()
        self._socket.close()

    def heads(self, start: str) -> list[dict[str, str]]:
        """Headers of the requests that begin so."""
        heads_of_path = (head.split("\r\n") for head in self.requests if head.startswith(start))
        return [
            dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            for lines in heads_of_path
        ]

    def _accept(self) -> None:
        while not self._closing.is_set():
            if select.select([self._socket], [], [], 0.05)[0]:
                client, _ = self._socket.accept()
                thread = threading.Thread(target=self._carry, args=[client])
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket) -> None:
        left = self.cut_after
        losing = False
        unread = b""
        with client, socket.create_connection(self._upstream) as server:
            for side in (
                client,
                server,
            ):  # no answer waits here for the acknowledgement of the one before
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self._closing.is_set():
                for ready in select.select([client, server], [], [], 0.05)[0]:
                    try:
                        data = ready.recv(CHUNK_BYTES)
                    except ConnectionError:
                        return
                    if not data or (ready is server and losing):
                        return
                    if ready is client:
                        losing_now, unread = self._note(unread + data)
                        losing = losing or losing_now  # a body follows its head
                        server.sendall(self._without_forgotten(data))
                        continue
                    client.sendall(data[:left])
                    if left is not None:
                        left -= len(data)
                        if left <= 0:
                            self.lost += 1
                            return

    def _without_forgotten(self, data: bytes) -> bytes:
        return data.replace(self.forget, b"x" * len(self.forget)) if self.forget else data

    def _note(self, sent: bytes) -> tuple[bool, bytes]:
        """Whether the answer is to be lost, and what may be the beginning of the next head: one
        comes in pieces, or close behind the body before it.
        """
        losing, end = False, 0
        for match in HEAD.finditer(sent):
            head = match[0].decode("latin-1").removesuffix("\r\n\r\n")
            end = match.end()
            self.requests.append(head)
            if re.match(self.lose, head):
                self.lose = "nothing"
                self.lost += 1
                losing = True
        return losing, sent[end:][-MAX_HEAD_BYTES:]
