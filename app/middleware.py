import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import error_handlers
from app.ids import new_id

RESPONSE_HEADERS = "response_headers"
QUIET = {"/healthz", "/readyz"}

log = structlog.get_logger()


class RequestContext:
    """Outermost: gives the request an id that its log lines and its answer carry, and turns what nobody caught into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started, status = new_id("req_"), time.monotonic(), 0
        headers: dict[str, str] = {"x-request-id": request_id}
        scope.setdefault("state", {})[RESPONSE_HEADERS] = headers  # for what else every answer should carry

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in headers.items())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:  # the edge of the process
                log.exception("unhandled error", method=scope["method"], path=scope["path"])
                if status:
                    raise  # too late for another answer: the connection breaks, and the client sees that
                await error_handlers.internal_error()(scope, receive, send_with_id)
            finally:
                write = log.debug if scope["path"] in QUIET else log.info
                milliseconds = round((time.monotonic() - started) * 1000, 1)
                write("request", method=scope["method"], path=scope["path"], status=status, milliseconds=milliseconds)
