"""Checks of settings that would silently have no effect, or an unintended one."""

import re
from ipaddress import ip_network

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")  # the spelling of browsers


def check_origin(value: str) -> str:
    """Refuse a value that no browser sends as its origin."""
    if value != "*" and not ORIGIN.fullmatch(value):
        raise ValueError(
            f"{value!r} is not an origin; FALQON_ALLOWED_ORIGINS takes scheme, host and port "
            "without a path, such as https://chat.example.com, or *"
        )
    return value


def check_proxies(value: str) -> str:
    """Accept no host name: a connection has only an address."""
    for proxy in filter(None, map(str.strip, value.split(","))):
        try:
            ip_network("0.0.0.0/0" if proxy == "*" else proxy)
        except ValueError as error:
            raise ValueError(
                f"{error}; FORWARDED_ALLOW_IPS takes addresses of proxies, such as 10.0.0.7, "
                "and networks"
            ) from None
    return value.strip(", ")
