"""POST to a project's URL: resolved once, checked, and connected to the very address that was
checked.

No proxy, no redirect, no keep-alive, and nothing read beyond the head of the answer. All of it ends
at one deadline.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from app.base.outbound.addresses import AddressRefused, Networks, OutboundTarget, parse_target
from app.base.outbound.connection import connect, reason_of, seconds_left

TIMEOUT_SECONDS = 10.0


class Undelivered(Exception):
    """The delivery failed; the message is for the user."""


def post(url: str, body: bytes, headers: Mapping[str, str], networks: Networks) -> int:
    """Post the body and return the status that was answered; raise `Undelivered` without one."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        target = parse_target(url, networks)
        return _exchange(target, connect(target, networks, deadline), body, headers, deadline)
    except AddressRefused as error:
        raise Undelivered(str(error)) from None
    except (OSError, HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise Undelivered(f"no answer within {TIMEOUT_SECONDS:g} seconds") from None
        raise Undelivered(reason_of(error)) from None


def _exchange(
    target: OutboundTarget,
    connected: socket.socket,
    body: bytes,
    headers: Mapping[str, str],
    deadline: float,
) -> int:
    connection = (HTTPSConnection if target.https else HTTPConnection)(target.host, target.port)
    connection.sock = connected
    connected.settimeout(seconds_left(deadline))
    # A socket's timeout begins again with each byte; a sender of single bytes is cut off here.
    cut = threading.Timer(seconds_left(deadline), _shut, [connected])
    cut.daemon = True
    cut.start()
    try:
        connection.request("POST", target.path, body, dict(headers))
        return connection.getresponse().status
    finally:
        cut.cancel()
        connection.close()
        connected.close()


def _shut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
