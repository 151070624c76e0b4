"""Who receives webhooks: a real HTTP server on a real port that remembers what came and answers as
it was told.
"""

import socket
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

from tests.support.local_server import LocalServer, QuietHandler


class Received(NamedTuple):
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Receiver(LocalServer):
    """`answers` are given one after the other, the last one for ever."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answers: deque[int] = deque([204])
        self.location = ""
        super().__init__(self._handler(), context)
        self.url += "/hook?a=b"

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:
        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                answers = receiver.answers
                self.send_response(answers.popleft() if len(answers) > 1 else answers[0])
                if receiver.location:
                    self.send_header("location", receiver.location)
                self.end_headers()

        return Handler


@contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(context)
    try:
        yield receiver
    finally:
        receiver.close()


@contextmanager
def silent_receiver() -> Iterator[str]:
    """Yield a URL that takes connections and answers none; its end resets them all."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
