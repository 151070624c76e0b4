"""Objects of the storage over HTTP: one range, strong validators, never shown by a browser."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from app.errors import BytesMissing, RangeNotSatisfiable
from app.storage import Storage
from app.storage.storage import CHUNK_BYTES

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_VALIDATORS = {
    "etag": {"description": "the SHA-256 of the whole", "required": True, "schema": {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}},
    "accept-ranges": {"required": True, "schema": {"type": "string", "enum": ["bytes"]}},
}
_CONTENT_RANGE = {"content-range": {"required": True, "schema": {"type": "string", "pattern": "^bytes "}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": _BYTES, "headers": _VALIDATORS},
    206: {"content": _BYTES, "headers": _VALIDATORS | _CONTENT_RANGE},
    304: {"description": "`If-None-Match` names these bytes", "headers": _VALIDATORS},
    416: {"description": "`Range` begins after the end", "headers": _CONTENT_RANGE},
}
log = structlog.get_logger()
ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


def send(request: Request, storage: Storage, key: str, *, size: int, sha256: str, filename: str) -> Response:
    etag = f'"{sha256}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": f"attachment; filename*=utf-8''{quote(filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    if _holds(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = _range(request, etag, size)
    path = storage.local_path(key)
    if path is not None:
        if not path.is_file():
            log.error("bytes are missing", key=key)
            raise BytesMissing("The bytes are missing in the server's storage; whoever runs it finds in its log which.")
        if wanted is None:  # what we do not honour, the response class must not see
            request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
        return FileResponse(path, headers=headers, media_type="application/octet-stream")
    start, end = wanted or (0, size)
    headers["content-length"] = str(end - start)
    if wanted:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    content = iter(()) if request.method == "HEAD" else _chunks(storage, key, start, end)
    return StreamingResponse(content, 206 if wanted else 200, headers, "application/octet-stream")


def _range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """[start, end) as asked; None for the whole: several ranges, or what cannot be understood, may be answered so (RFC 9110)."""
    match = ONE_RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or request.headers.get("if-range", etag) != etag or (not match[1] and not match[2]):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < start:
            return None
    if start >= size:
        raise RangeNotSatisfiable(f"The object has {size} bytes.", headers={"content-range": f"bytes */{size}"})
    return start, end


def _chunks(storage: Storage, key: str, start: int, end: int) -> Iterator[bytes]:
    for position in range(start, end, CHUNK_BYTES):
        yield storage.read_range(key, position, min(end, position + CHUNK_BYTES))


def _holds(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))
