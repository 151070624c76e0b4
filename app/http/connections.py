"""Limits on connections of untrusted clients: deadlines for the data that a client owes, and a
maximum of open connections.

uvicorn closes a connection that is idle between two requests, but waits for ever for the rest of a
request.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.http.error_handlers import body

RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True)
class ConnectionLimits:
    connections: int
    head_seconds: float  # whole head, from its first byte or the start of the connection
    body_seconds: float  # between two chunks of a body that is incomplete


class ConnectionGuard:
    """Registry of the connections of a process that may be closed to make room, the first of each
    first.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        # Idle connections, in the order in which they became idle.
        self.idle: dict[GuardedProtocol, None] = {}
        # Connections with an incomplete body, in the order of their last bytes.
        self.sending: dict[GuardedProtocol, None] = {}

    def forget(self, connection: "GuardedProtocol") -> None:
        self.idle.pop(connection, None)
        self.sending.pop(connection, None)


class GuardedProtocol(H11Protocol):
    def __init__(self, *arguments: Any, guard: ConnectionGuard, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._guard = guard
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._guard.limits.connections:
            self._make_room()
        if not transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_deadline()

    def _update_deadline(self) -> None:
        """Set the deadline of the client's next bytes."""
        if self.transport.is_closing():
            self._stop_waiting()
        elif self.conn.their_state is h11.IDLE:
            self._await_head()
        elif self.conn.their_state is h11.SEND_BODY:
            self._await_body()
        else:
            self._stop_waiting()

    def _await_head(self) -> None:
        if self in self._guard.idle and self._deadline is not None:
            return  # more of the same head makes no difference
        self._stop_waiting()
        self._guard.idle[self] = None
        if self.timeout_keep_alive_task is None:
            self._set_deadline(self._guard.limits.head_seconds, self._on_late_head)

    def _await_body(self) -> None:
        if self.cycle.response_complete:
            # The client no longer reads it, so it only has to end.
            if self not in self._guard.idle:
                self._stop_waiting()
                self._guard.idle[self] = None
                self._set_deadline(self._guard.limits.body_seconds, self._on_late_body)
            return
        self._stop_waiting()
        self._guard.sending[self] = None
        self._set_deadline(self._guard.limits.body_seconds, self._on_late_body)

    def _set_deadline(self, seconds: float, on_late: Callable[[], None]) -> None:
        self._deadline = self.loop.call_later(seconds, on_late)

    def _stop_waiting(self) -> None:
        self._guard.forget(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_late_head(self) -> None:
        if self.conn.trailing_data[0]:
            seconds = self._guard.limits.head_seconds
            self.logger.warning("A head of a request did not arrive within %g s.", seconds)
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The head of the request did not arrive within {seconds:g} s.",
            )
        else:
            self.transport.close()

    def _on_late_body(self) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # the delay is ours
            self._update_deadline()
            return
        seconds = self._guard.limits.body_seconds
        if self.cycle.response_complete:
            self.transport.abort()
            return
        self.logger.warning("No byte of the body of a request arrived for %g s.", seconds)
        self.cycle.disconnected = True  # nothing sent from now on is read
        if self.cycle.response_started:
            self.transport.abort()
        else:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, f"No byte of the body arrived for {seconds:g} s."
            )
        self.cycle.message_event.set()

    def _make_room(self) -> None:
        """Close the connection that waits longest, or this new one if all others are busy."""
        most = self._guard.limits.connections
        self.logger.warning(
            "%d connections are open, the most allowed: one is closed for each new one.", most
        )
        longest = next(chain(self._guard.idle, self._guard.sending), self)
        if longest is self:
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"All {most} connections of this service are in use; try again in a moment.",
            )
        else:
            longest.transport.abort()
        longest._stop_waiting()
        # Removed at once, so that it is not counted a second time.
        self.connections.discard(longest)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        kind = (
            "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        )
        code = "request_timeout" if status is HTTPStatus.REQUEST_TIMEOUT else "too_many_connections"
        content = json.dumps(body(message, kind, None, code)).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
            "retry-after": str(RETRY_AFTER_SECONDS),
        }
        response = h11.Response(
            status_code=status, headers=list(headers.items()), reason=status.phrase
        )
        for event in (response, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
