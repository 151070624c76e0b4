"""Addresses that a webhook or a download may reach. A project's URL must never become a way into
the network of this service.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

HTTPS_PORT = 443
FIRST_FREE_PORT = 1024  # protocols below it must not be spoken to
IPV6_PUBLIC = IPv6Network("2000::/3")
# Networks that `ipaddress` of some supported Python reports as public: protocol assignments with a
# cloud's metadata among them, 6to4 relays, documentation; and a cloud's internal service at a
# public address.
NOT_PUBLIC = [
    ip_network(name) for name in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "168.63.129.16/32")
]

REFUSAL = (
    "the host's address is not a public one, or its port is neither 443 nor above 1023; "
    "only public addresses are reached, and by https"
)


class AddressRefused(ValueError):
    """The address is not allowed; the message is for the user and contains no address, since names
    of an internal network may resolve to one.
    """


@dataclass(frozen=True, slots=True)
class OutboundTarget:
    https: bool
    host: str
    port: int
    path: str  # query included


def parse_target(url: str, networks: Networks) -> OutboundTarget:
    """Return the parts of a normalized URL.

    Raise `Refused` if it could never be allowed, independently of the addresses of its host.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    https = parts.scheme == "https"
    if not https and not (parts.scheme == "http" and networks):
        raise AddressRefused("only https is accepted")
    if "@" in parts.netloc:
        raise AddressRefused("user name and password cannot be part of it")
    default_port = HTTPS_PORT if https else 80
    query = f"?{parts.query}" if parts.query else ""
    target = OutboundTarget(https, host, parts.port or default_port, (parts.path or "/") + query)
    if (literal := _literal(host)) is not None and not may_reach(literal, target, networks):
        raise AddressRefused(REFUSAL)
    return target


def resolve(target: OutboundTarget, networks: Networks) -> list[Address]:
    """Return the addresses of the host; a single forbidden one refuses all.

    Raise `OSError` when the name does not resolve.
    """
    answers = socket.getaddrinfo(target.host.encode(), target.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
    if not all(may_reach(address, target, networks) for address in addresses):
        raise AddressRefused(REFUSAL)
    return addresses


def may_reach(address: Address, target: OutboundTarget, networks: Networks) -> bool:
    if any(address in network for network in networks):
        return True
    return (
        target.https
        and (target.port == HTTPS_PORT or target.port >= FIRST_FREE_PORT)
        and is_public(address)
    )


def is_public(address: Address) -> bool:
    if (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or any(address in network for network in NOT_PUBLIC)
    ):
        return False
    if isinstance(address, IPv6Address):
        # An address that carries an IPv4 address inside (mapped, 6to4, Teredo, NAT64) reaches that
        # address, and no legitimate target needs it.
        return address in IPV6_PUBLIC and address.sixtofour is None and address.teredo is None
    return True


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
