"""The address of the service, and the key for it."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from app.client import local
from app.client.errors import Misused, NoConnection

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Connection:
    base_url: str  # ends with /v1
    api_key: str


def resolve(base_url: str | None, api_key: str | None) -> Connection:
    """Return the connection that is given, else the `openai` client's, else this machine's service.

    The key of this machine goes to this machine only, and one for OpenAI only to an address that
    was given.
    """
    base_url = base_url or os.environ.get("OPENAI_BASE_URL")
    if base_url:
        api_key = api_key or os.environ.get("OPENAI_API_KEY")
    return resolve_here(base_url, api_key)


def resolve_here(base_url: str | None, api_key: str | None) -> Connection:
    """Return the connection that is given, else this machine's service: for a command to which the
    `openai` client's variables mean the other side.
    """
    if base_url:
        if not api_key:
            raise NoConnection(
                f"There is no API key for {base_url}.", "Set FALQON_API_KEY or pass --api-key."
            )
        return Connection(with_version(base_url), api_key)
    here = local.read(local.data_dir())
    if here is None and not api_key:
        raise NoConnection(
            f"No service is named, and {local.data_dir()} holds none of this machine.",
            "Start one with `falqon up`, set FALQON_DATA_DIR to the folder of one that runs "
            "elsewhere, or set FALQON_BASE_URL and FALQON_API_KEY.",
        )
    if here is None:
        return Connection(with_version(DEFAULT_ADDRESS), api_key or "")
    return Connection(with_version(here.base_url), api_key or here.api_key)


def check_address(base_url: str) -> None:
    """Raise `Misused` for what can be no service's address."""
    try:
        address = urlsplit(base_url)
        is_one = address.scheme in ("http", "https") and bool(address.hostname)
        # They raise where the port is no number, or the name is none that can be looked up.
        _ = address.port, (address.hostname or "").encode("idna"), httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        is_one = False
    if not is_one:
        raise Misused(
            f"'{base_url}' is not the address of a service.",
            "Give one like http://127.0.0.1:8000 or https://host/v1.",
        )


def readable_key(api_key: str) -> str:
    """Return a key as it can be sent. Raises `Misused`."""
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()):
        raise Misused("The API key holds characters that no key has.", "Copy it again, and alone.")
    return key


def with_version(base_url: str) -> str:
    """Return the address of the API of the service at this address."""
    check_address(base_url)
    trimmed = base_url.rstrip("/")
    if trimmed.endswith("/v1"):
        return trimmed
    return f"{trimmed}/v1"
