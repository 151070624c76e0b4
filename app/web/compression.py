"""Gzip for pages, scripts, styles and the numbers of charts. Answers of the API are left alone; so
are streams, which must not wait for a block to fill, and downloads, whose length, digest and ranges
are those of the bytes themselves."""

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

MINIMUM_BYTES = 1000
GZIP_LEVEL = 6
LEFT_ALONE = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream", "application/x-tar")


class Compression:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressed = GZipMiddleware(
            app, MINIMUM_BYTES, GZIP_LEVEL, exclude_content_types=LEFT_ALONE
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_of_api = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self._app if is_of_api else self._compressed)(scope, receive, send)
