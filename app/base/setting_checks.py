"""Checks of settings that would silently have no effect, or an unintended one."""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import parse_qs, urlsplit

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


def check_issuer(value: str) -> str:
    """Accept an address whose answers nobody on the way can change, as sign-ins rest on them."""
    if value:
        check_provider_address(value)
        parts = urlsplit(value)
        if parts.query or parts.fragment:
            raise ValueError(f"{value!r} has a query or a fragment; an issuer has none")
    return value


def check_provider_address(value: str) -> str:
    """Accept https, and http for a provider on this machine."""
    parts = urlsplit(value)
    host = parts.hostname or ""
    if not host or parts.username is not None or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} is not the address of an identity provider")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ValueError(f"{value!r} does not begin with https://")
    return value


def check_redis(value: str) -> str:
    """Accept one server, in a form that both client libraries read. The message must not repeat the
    address, which may hold a password.
    """
    parts = urlsplit(value)
    if value and parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            f"'{parts.scheme}://' is not supported; give the address of one server, "
            "redis://host:6379/0, or rediss:// with TLS. Redis holds nothing that must be kept, so "
            "it needs no Sentinel and no cluster"
        )
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        raise ValueError(
            "rediss:// needs the parameter ssl_cert_reqs, such as in "
            "rediss://host:6380/0?ssl_cert_reqs=required"
        )
    return value


def check_sign_in_scopes(value: str) -> str:
    """Require the scope without which a provider sends no ID token."""
    if "openid" not in value.split():
        raise ValueError("the scope 'openid' is missing, such as in 'openid email profile'")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
