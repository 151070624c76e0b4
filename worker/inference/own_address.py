"""The address at which the API reaches the engines of this machine."""

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from app.base.settings import Settings

ANY_PORT = 9  # Port of a datagram that is never sent.


def own_address(settings: Settings) -> str:
    """Return the address from which this machine reaches the database, or else Redis: the API is on
    their network. The name of a machine often stands for its loopback in /etc/hosts.
    """
    for url in (settings.resolved_database_url, settings.resolved_redis_url):
        host = urlsplit(url).hostname
        address = _source_towards(host) if host else None
        if address and not ip_address(address).is_loopback:
            return address
    return socket.gethostbyname(socket.gethostname())


def _source_towards(host: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        try:
            datagrams.connect((host, ANY_PORT))
        except OSError:
            return None
        return str(datagrams.getsockname()[0])
