"""The HTTP form of `falqon mcp`: every caller brings a key of their own, which is passed on to the
API; without a valid one nothing is answered.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import anyio.to_thread
import uvicorn
from mcp.server.mcpserver import Context

from app.client.agents.server import build_server
from app.client.api import Api
from app.client.connection import Connection
from app.client.errors import ApiUnavailable, ClientError, NoConnection

MAX_CONNECTIONS = 200
GRACE_SECONDS = 10
BEARER = "bearer "

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


class Refusal(NamedTuple):
    status: int
    message: str


class OneTry(Api):
    repeat_after_seconds = ()


def serve(base_url: str, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""

    def api_of(context: Context[Any, Any]) -> Api:
        return Api(Connection(base_url, _key_in((context.headers or {}).get("authorization", ""))))

    app = build_server(api_of).streamable_http_app(
        host=host, stateless_http=True, json_response=True
    )
    uvicorn.run(
        Door(app, base_url),
        host=host,
        port=port,
        log_level="warning",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class Door:
    """Refuses requests whose key the API refuses, before anything of them is read."""

    def __init__(self, app: AsgiApp, base_url: str) -> None:
        self._app = app
        self._base_url = base_url

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # Each caller who waits in a tool takes a thread.
            anyio.to_thread.current_default_thread_limiter().total_tokens = MAX_CONNECTIONS
        elif scope["type"] == "http":
            values = [value for name, value in scope["headers"] if name == b"authorization"]
            key = _key_in(values[0].decode("latin-1")) if len(values) == 1 else ""
            if (refusal := await anyio.to_thread.run_sync(self._refuse, key)) is not None:
                await _send_refusal(send, refusal)
                return
        await self._app(scope, receive, send)

    def _refuse(self, key: str) -> Refusal | None:
        if not key:
            return Refusal(401, "Send an API key of the service: Authorization: Bearer ft_live_…")
        try:
            api = OneTry(Connection(self._base_url, key))
            try:
                api.get("/files", {"limit": 1})
            finally:
                api.close()
        except NoConnection as error:
            return Refusal(401 if error.body["code"] else 502, error.message)
        except ApiUnavailable as error:
            return Refusal(503, error.message)
        except ClientError as error:
            return Refusal(403, error.message)
        return None


def _key_in(authorization: str) -> str:
    is_bearer = authorization[: len(BEARER)].lower() == BEARER
    return authorization[len(BEARER) :].strip() if is_bearer else ""


async def _send_refusal(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": {"message": refusal.message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
