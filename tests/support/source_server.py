"""Where sources stand: a web server with files, ETags and ranges, which can break off, redirect,
send byte by byte, and answer the part of the Hugging Face Hub's API that data sets are read by.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.support.local_server import LocalServer, QuietHandler

COMMIT = "c" * 40
TOKEN = "hf_of_the_project"


class SourceServer(LocalServer):
    """`private` names data sets that need `TOKEN`. `breaks` counts the answers that will end after
    half of their bytes.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}  # by path
        self.redirects: dict[str, str] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.models: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.breaks = 0
        self.pause = 0.0  # seconds between two bytes of an answer
        self.page_size = 1000  # of lists of files
        self.requests: list[tuple[str, dict[str, str]]] = []
        super().__init__(self._handler())

    def content_of(self, path: str, query: str, token: str) -> tuple[bytes | None, dict[str, str]]:
        """Return what stands at a path, and headers; None for nothing."""
        match = re.fullmatch(
            r"(?:/api)?/datasets/(\w+/\w+)/(revision|tree|resolve)/([^/]+)(?:/(.*))?", path
        )
        if match is None:
            return self.files.get(path) or self._of_model(path), {"x-repo-commit": COMMIT}
        repository, what, revision, name = match.groups()
        files = self.datasets.get(repository)
        is_refused = repository in self.private and token != f"Bearer {TOKEN}"
        if files is None or is_refused or revision not in ("main", COMMIT):
            return None, {}
        if what == "revision":
            return json.dumps({"sha": COMMIT}).encode(), {}
        if what == "resolve":
            return files.get(name), {}
        start = int(query.rpartition("cursor=")[2]) if "cursor=" in query else 0
        page = sorted(files)[start : start + self.page_size]
        headers = {}
        if start + self.page_size < len(files):
            following = f"{self.url}{path}?recursive=true&cursor={start + self.page_size}"
            headers["link"] = f'<{following}>; rel="next"'
        return json.dumps([{"type": "file", "path": name} for name in page]).encode(), headers

    def _of_model(self, path: str) -> bytes | None:
        """Answer what a download of a whole model asks."""
        if match := re.fullmatch(rf"/api/models/(\w+/\w+)/(revision|tree)/(?:main|{COMMIT})", path):
            files = self.models.get(match[1])
            if files is None:
                return None
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": COMMIT}
                for name, content in files.items()
            ]
            siblings = [{"rfilename": name} for name in files]
            info = {"id": match[1], "sha": COMMIT, "siblings": siblings}
            return json.dumps(info if match[2] == "revision" else entries).encode()
        match = re.fullmatch(rf"/(\w+/\w+)/resolve/{COMMIT}/(.+)", path)
        return self.models.get(match[1], {}).get(match[2]) if match else None

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client that has left
                    super().handle()

            def flush_headers(self) -> None:
                head = b"".join(self._headers_buffer)  # type: ignore[attr-defined]
                self._headers_buffer: list[bytes] = []
                self._write(head)

            def _write(self, content: bytes) -> None:
                pieces = [bytes([byte]) for byte in content] if server.pause else [content]
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(server.pause)

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                path = unquote(parts.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((self.path, headers))
                if path in server.redirects:
                    self._send(302, b"", {"location": server.redirects[path]})
                    return
                token = headers.get("authorization", "")
                content, extra = server.content_of(path, parts.query, token)
                if content is None:
                    self._send(404, b"", {})
                    return
                extra["etag"] = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
                start = 0
                if headers.get("if-range") == extra["etag"]:
                    start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
                self._send(206 if start else 200, content[start:], extra)

            do_HEAD = do_GET

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if content and server.breaks:
                    server.breaks -= 1
                    content = content[: len(content) // 2]
                    self.close_connection = True
                if self.command != "HEAD":
                    self._write(content)

        return Handler


@contextmanager
def serving_sources() -> Iterator[SourceServer]:
    server = SourceServer()
    try:
        yield server
    finally:
        server.close()
