"""Connection to the very address that was checked: the name is not resolved a second time."""

import socket
import ssl
import time
from functools import cache
from http.client import HTTPException

from app.base.outbound.addresses import Networks, OutboundTarget, resolve

# After the deadline each step still fails by itself, and 0 would mean not to wait at all.
MIN_TIMEOUT_SECONDS = 0.01


def connect(target: OutboundTarget, networks: Networks, deadline: float) -> socket.socket:
    """Connect by the deadline, a reading of the monotonic clock. Raises `Refused` and `OSError`."""
    addresses = resolve(target, networks)
    for address in addresses:
        try:
            # An IP address literal.
            plain = socket.create_connection(
                (str(address), target.port), timeout=seconds_left(deadline)
            )
            break
        except OSError:
            if address == addresses[-1] or time.monotonic() >= deadline:
                raise
    if not target.https:
        return plain
    plain.settimeout(seconds_left(deadline))
    return _trust().wrap_socket(plain, server_hostname=target.host)


def seconds_left(deadline: float) -> float:
    return max(MIN_TIMEOUT_SECONDS, deadline - time.monotonic())


def reason_of(error: OSError | HTTPException | ValueError) -> str:
    """Return the reason of a failed request, without an address."""
    match error:
        case socket.gaierror():
            return "the host name does not resolve"
        case ssl.SSLCertVerificationError():
            return f"the certificate was not accepted: {error.verify_message}"
        case ssl.SSLError():
            return "no TLS connection could be made"
        case OSError():
            reason = error.strerror or str(error) or type(error).__name__
            return f"the connection failed: {reason}"
        case HTTPException():
            return "the response is not HTTP"
        case ValueError():  # encoding of the host name failed
            return "the host name is not valid"


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()
