"""One GET of an external address to a file: every address on its way is checked, redirects too,
and what a broken connection has left is continued where the server can.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

from app.base.outbound.addresses import AddressRefused, Networks, OutboundTarget, parse_target
from app.base.outbound.connection import connect, reason_of
from worker.sources.checked_socket import MIN_BYTES_PER_SECOND, CheckedSocket, Pace, SourceTooSlow

CONNECT_SECONDS = 10.0
MAX_REDIRECTS = 5
MAX_RESUMPTIONS = 5
RETRY_SECONDS = 1.0
CHUNK_BYTES = 2**18
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
NOT_FOUND_STATUSES = (401, 403, 404, 410)


class SourceRefused(Exception):
    """The source cannot be read, now or later; with a code and a sentence for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SourceUnavailable(Exception):
    """The source does not answer as it should; another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Downloader:
    """`check` is called every few seconds and may raise to give up."""

    networks: Networks
    check: Callable[[], None]

    def fetch(
        self,
        url: str,
        target: Path,
        headers: Mapping[str, str],
        max_bytes: int,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> str | None:
        """Write the answer to a file; return its ETag. The headers go to the first host alone."""
        validator: str | None = None
        pace = Pace()
        for attempt in range(MAX_RESUMPTIONS + 1):
            start = target.stat().st_size if validator and target.exists() else 0
            resumption = {"range": f"bytes={start}-", "if-range": validator or ""} if start else {}
            try:
                with self._get(url, dict(headers) | resumption, pace) as response:
                    validator = response.getheader("etag")
                    if response.status != 206:
                        start = 0
                    with target.open("ab" if start else "wb") as file:
                        self._copy(response, file, start, max_bytes, on_progress)
                return validator
            except (OSError, HTTPException) as error:
                if attempt == MAX_RESUMPTIONS:
                    raise SourceUnavailable(reason_of(error)) from error
                self._pause()
        raise AssertionError("the last attempt returns or raises")

    def read(self, url: str, headers: Mapping[str, str], max_bytes: int) -> tuple[bytes, str]:
        """Return a small answer, and its Link header."""
        try:
            with self._get(url, headers, Pace()) as response:
                content = response.read(max_bytes + 1)
                link = response.getheader("link") or ""
        except (OSError, HTTPException) as error:
            raise SourceUnavailable(reason_of(error)) from error
        if len(content) > max_bytes:
            raise SourceRefused("source_too_large", "The list of its files is too long.")
        return content, link

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str], pace: Pace) -> Iterator[HTTPResponse]:
        """Follow redirects to an answer that holds the bytes."""
        first = ""
        with ExitStack() as opened, _refusing_slow():
            for _ in range(MAX_REDIRECTS + 1):
                try:
                    target = parse_target(url, self.networks)
                    host = f"{target.https}:{target.host}:{target.port}"
                    first = first or host
                    own = dict(headers)
                    if host != first:
                        own.pop("authorization", None)
                    response = self._ask(target, own, opened, pace)
                except (AddressRefused, ValueError) as error:
                    message = f"The source is not reached: {error}."
                    raise SourceRefused("source_refused", message) from error
                if response.status not in REDIRECT_STATUSES:
                    break
                url = urljoin(url, response.getheader("location") or "")
            _check_status(response.status)
            yield response

    def _ask(
        self, target: OutboundTarget, headers: Mapping[str, str], opened: ExitStack, pace: Pace
    ) -> HTTPResponse:
        self.check()
        connected = connect(target, self.networks, time.monotonic() + CONNECT_SECONDS)
        opened.callback(connected.close)
        kind = HTTPSConnection if target.https else HTTPConnection
        connection = kind(target.host, target.port)
        connection.sock = CheckedSocket(connected, self.check, pace)
        opened.callback(connection.close)
        general = {"accept-encoding": "identity", "connection": "close", "user-agent": "falqon"}
        connection.request("GET", target.path, headers=general | dict(headers))
        return opened.enter_context(connection.getresponse())

    def _copy(
        self,
        response: HTTPResponse,
        file: BinaryIO,
        start: int,
        max_bytes: int,
        on_progress: Callable[[float], None],
    ) -> None:
        done = start
        total = start + (response.length or 0)
        while chunk := response.read(CHUNK_BYTES):
            self.check()
            done += len(chunk)
            if max(done, total) > max_bytes:
                raise SourceRefused(
                    "source_too_large",
                    f"It has more than {max_bytes} bytes, the most that one file may have.",
                )
            file.write(chunk)
            if total:
                on_progress(min(1.0, done / total))
        if response.length:
            raise ConnectionError("the connection ended before the file did")

    def _pause(self) -> None:
        until = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < until:
            self.check()
            time.sleep(0.1)


@contextmanager
def _refusing_slow() -> Iterator[None]:
    try:
        yield
    except SourceTooSlow:
        least = MIN_BYTES_PER_SECOND // 1024
        message = f"It sends fewer than {least} KiB a second."
        raise SourceRefused("source_too_slow", message) from None


def _check_status(status: int) -> None:
    if status in (200, 206):
        return
    if status in REDIRECT_STATUSES:
        raise SourceRefused("source_refused", f"It redirects more than {MAX_REDIRECTS} times.")
    if status in NOT_FOUND_STATUSES:
        raise SourceRefused(
            "source_not_found",
            "It is not there, or needs a token of this project that may read it "
            f"(the answer was {status}).",
        )
    if status == 429 or status >= 500:
        raise ConnectionError(f"the answer was {status}")
    raise SourceRefused("source_refused", f"The answer was {status}.")
