"""One POST to a project's URL: resolved once, checked, and connected to the very address that was checked.

No proxy, no redirect, no keep-alive, and nothing read beyond the head of the answer. All of it ends at one deadline.
"""

import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from app.webhooks.addresses import Networks, Refused, Target, resolve, target

TIMEOUT_SECONDS = 10.0
MIN_TIMEOUT_SECONDS = 0.01  # after the deadline each step still fails by itself, and 0 would mean not to wait at all


class Undelivered(Exception):
    """The message is for the user."""


def post(url: str, body: bytes, headers: Mapping[str, str], networks: Networks) -> int:
    """The status that was answered. Raises `Undelivered`."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        found = target(url, networks)
        return _exchange(found, _connect(found, networks, deadline), body, headers, deadline)
    except Refused as error:
        raise Undelivered(str(error)) from None
    except (OSError, HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise Undelivered(f"no answer within {TIMEOUT_SECONDS:g} seconds") from None
        raise Undelivered(_reason(error)) from None


def _connect(target: Target, networks: Networks, deadline: float) -> socket.socket:
    addresses = resolve(target, networks)
    for address in addresses:
        try:
            # A literal address: nothing is looked up a second time.
            plain = socket.create_connection((str(address), target.port), timeout=_left(deadline))
            break
        except OSError as error:
            if address == addresses[-1] or time.monotonic() >= deadline:
                raise error
    if not target.https:
        return plain
    plain.settimeout(_left(deadline))
    return _trust().wrap_socket(plain, server_hostname=target.host)


def _exchange(target: Target, connected: socket.socket, body: bytes, headers: Mapping[str, str], deadline: float) -> int:
    connection = (HTTPSConnection if target.https else HTTPConnection)(target.host, target.port)
    connection.sock = connected
    connected.settimeout(_left(deadline))
    # A socket's timeout begins anew with each byte; who sends them one by one is cut off here.
    cut = threading.Timer(_left(deadline), _shut, [connected])
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


def _left(deadline: float) -> float:
    return max(MIN_TIMEOUT_SECONDS, deadline - time.monotonic())


def _reason(error: OSError | HTTPException | ValueError) -> str:
    match error:
        case socket.gaierror():
            return "the host name does not resolve"
        case ssl.SSLCertVerificationError():
            return f"the certificate was not accepted: {error.verify_message}"
        case ssl.SSLError():
            return "no TLS connection could be made"
        case OSError():
            return f"the connection failed: {error.strerror or type(error).__name__}"
        case HTTPException():
            return "the answer is not HTTP"
        case ValueError():  # from encoding the name
            return "the host name is not valid"


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()
