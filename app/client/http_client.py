"""The connections of the client. A proxy of the environment is asked for what other machines serve,
never for what this machine does.
"""

import ipaddress
import os
from typing import Any

import httpx

from app.client.errors import Misused

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class _UnusableProxy(httpx.BaseTransport):
    """Refuses every request, as the proxy that it would go to cannot be used."""

    def __init__(self, misuse: Misused) -> None:
        self._misuse = misuse

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise self._misuse


def make_http_client(base_url: str, **options: Any) -> httpx.Client:
    """Return a client that raises `Misused` at a request for which the environment names a proxy
    that cannot be used. Raises `Misused` where it names certificates that cannot be read.
    """
    local = _local_patterns(base_url)
    try:
        return httpx.Client(base_url=base_url, mounts=dict.fromkeys(local), **options)
    except OSError as error:  # An SSLError, too.
        path = os.environ.get("SSL_CERT_FILE")
        raise Misused(
            f"The certificates of SSL_CERT_FILE ({path}) cannot be read: {error}",
            "Name a file of certificates in PEM, or unset the variable.",
        ) from None
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        refusing = _UnusableProxy(_misuse(error))
    # A transport of its own reads the certificates that the environment names, and no proxies.
    direct = httpx.HTTPTransport()
    mounts = dict.fromkeys(local, direct)
    return httpx.Client(base_url=base_url, transport=refusing, mounts=mounts, **options)


def _local_patterns(base_url: str) -> list[str]:
    """Return httpx's patterns of the addresses of this machine, that of the service with them."""
    hosts = [*LOCAL_HOSTS]
    host = httpx.URL(base_url).host
    if _is_of_this_machine(host):
        hosts.append(f"[{host}]" if ":" in host else host)
    return [f"all://{host}" for host in hosts]


def _is_of_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _misuse(error: Exception) -> Misused:
    names = [
        name for name, value in os.environ.items() if name.lower() in PROXY_VARIABLES and value
    ]
    where = ", ".join(sorted(names)) or "this system"
    return Misused(
        f"The proxy settings of {where} cannot be used: {error}",
        "Name an HTTP proxy, like http://host:3128, or unset the variable.",
    )
