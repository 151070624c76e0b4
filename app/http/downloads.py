"""Objects of the storage over HTTP: one range, strong validators, never shown by a browser."""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from app.base.errors import BytesMissing, RangeNotSatisfiable
from app.base.storage import Storage
from app.base.storage.storage import CHUNK_BYTES
from app.http.storage_limit import read_in_threads

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_VALIDATORS = {
    "etag": {
        "description": "the SHA-256 of the whole",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9a-f]{64}"$'},
    },
    "repr-digest": {
        "description": "the same as RFC 9530 writes it",
        "required": True,
        "schema": {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"},
    },
    "accept-ranges": {"required": True, "schema": {"type": "string", "enum": ["bytes"]}},
}
_CONTENT_RANGE = {
    "content-range": {"required": True, "schema": {"type": "string", "pattern": "^bytes "}}
}
_LOCATION = {"location": {"required": True, "schema": {"type": "string", "format": "uri"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": _BYTES, "headers": _VALIDATORS},
    206: {"content": _BYTES, "headers": _VALIDATORS | _CONTENT_RANGE},
    302: {
        "description": "The object store serves the bytes, to everyone, for 15 minutes",
        "headers": _VALIDATORS | _LOCATION,
    },
    304: {"description": "`If-None-Match` names these bytes", "headers": _VALIDATORS},
    416: {"description": "`Range` begins after the end", "headers": _CONTENT_RANGE},
}
REDIRECT_LIFETIME = timedelta(minutes=15)  # time to begin a download; one in progress goes on
ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Content:
    """Object of the storage as a user downloads it."""

    key: str
    bytes: int
    sha256: str
    filename: str


@dataclass(frozen=True, slots=True)
class ContentStream:
    """Content that is produced while a user downloads it."""

    chunks: Iterator[bytes]
    bytes: int | None  # None: unknown before the end
    filename: str
    media_type: str


class _FileDownload(FileResponse):
    chunk_size = CHUNK_BYTES  # the default is a sixteenth, and so is its speed


def send(
    request: Request,
    storage: Storage,
    content: Content,
    *,
    redirects: bool,
    immutable: bool = False,
    more: Mapping[str, str] | None = None,
) -> Response:
    """Send the content, or redirect to it.

    `immutable`: the address names a fixed content. `more`: headers beside the usual ones.
    """
    etag = f'"{content.sha256}"'
    headers = {
        "etag": etag,
        "repr-digest": f"sha-256=:{b64encode(bytes.fromhex(content.sha256)).decode()}:",
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable"
        if immutable
        else "private, no-cache",
        "content-disposition": _disposition(content.filename),
        "x-content-type-options": "nosniff",
        **(more or {}),
    }
    if _holds(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    byte_range = _range(request, etag, content.bytes)
    path = storage.local_path(content.key)
    if path is not None:
        if not path.is_file():
            storage.check_installation()
            raise missing_error(content.key)
        if byte_range is None:  # the response class must not see a range that is not honoured
            request.scope["headers"] = [
                (name, value) for name, value in request.scope["headers"] if name != b"range"
            ]
        return _FileDownload(path, headers=headers, media_type="application/octet-stream")
    if (
        redirects
        and request.method == "GET"
        and (location := storage.signed_url(content.key, REDIRECT_LIFETIME))
    ):
        return Response(
            status_code=302, headers=headers | {"location": location, "cache-control": "no-store"}
        )
    start, end = byte_range or (0, content.bytes)
    headers["content-length"] = str(end - start)
    if byte_range:
        headers["content-range"] = f"bytes {start}-{end - 1}/{content.bytes}"
    try:
        chunks: Iterator[bytes] = iter(())
        if request.method != "HEAD":
            chunks = _begin(storage.chunks(content.key, byte_range))
    except FileNotFoundError:
        raise missing_error(content.key) from None
    return StreamingResponse(
        read_in_threads(chunks),
        206 if byte_range else 200,
        headers,
        "application/octet-stream",
    )


def send_stream(request: Request, stream: ContentStream) -> Response:
    headers = {
        "content-disposition": _disposition(stream.filename),
        "cache-control": "private, no-cache",
    }
    if stream.bytes is not None:
        headers["content-length"] = str(stream.bytes)
    chunks: Iterator[bytes] = iter(())
    # For an archive, the first header and the first bytes of that file.
    if request.method != "HEAD":
        try:
            chunks = _begin(stream.chunks, 2)
        except FileNotFoundError as error:
            raise missing_error(str(error)) from None
    return StreamingResponse(read_in_threads(chunks), headers=headers, media_type=stream.media_type)


def _begin(chunks: Iterator[bytes], num_chunks: int = 1) -> Iterator[bytes]:
    """Read the first chunks now, while a failure can still become a response of its own."""
    return chain(list(islice(chunks, num_chunks)), chunks)


def missing_error(key: str) -> BytesMissing:
    """Return the error for an object that the storage does not have; the log gets its name."""
    log.error("bytes are missing", key=key)
    return BytesMissing(
        "The bytes are missing in the server's storage; the operator finds the object in its log."
    )


def _disposition(filename: str) -> str:
    return f"attachment; filename*=utf-8''{quote(filename, safe='')}"


def _range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the requested [start, end), or None for the whole.

    Several ranges, and invalid ones, may be answered with the whole (RFC 9110).
    """
    match = ONE_RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if (
        match is None
        or request.headers.get("if-range", etag) != etag
        or (not match[1] and not match[2])
    ):
        return None
    if not match[1]:
        start = max(0, size - int(match[2]))
        end = size
    else:
        start = int(match[1])
        end = min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < start:
            return None
    if start >= size:
        raise RangeNotSatisfiable(
            f"The object has {size} bytes.", headers={"content-range": f"bytes */{size}"}
        )
    return start, end


def _holds(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in (
        tag.strip().removeprefix("W/") for tag in header.split(",")
    )
