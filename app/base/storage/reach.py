"""Timeouts of an object store, and the errors that mean that it is unavailable."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotModifiedError,
    NotSupportedError,
    PreconditionError,
    UnknownConfigurationKeyError,
)

from app.base import counters
from falqon_core.contract.errors import is_disk_full

# Options displace the client's environment variables (AWS_ALLOW_HTTP, …), so those are read here.
OF_ENVIRONMENT = (
    *("allow_http", "allow_invalid_certificates", "user_agent"),
    *("proxy_url", "proxy_ca_certificate", "proxy_excludes"),
)
PREFIXES = ("AWS", "GOOGLE", "AZURE")
OTHER_FAULTS = (
    AlreadyExistsError,
    InvalidPathError,
    NotModifiedError,
    NotSupportedError,
    PreconditionError,
    UnknownConfigurationKeyError,
)


@dataclass(frozen=True, slots=True)
class StoreTimeouts:
    """Timeouts of the operations on an object store."""

    connect: timedelta
    silence: timedelta  # silence before and within the response
    whole: timedelta  # one request including its whole response
    retries: timedelta  # no request is repeated later than this after the first
    num_retries: int


FOR_REQUESTS = StoreTimeouts(
    connect=timedelta(seconds=5),
    silence=timedelta(seconds=20),
    whole=timedelta(hours=1),
    retries=timedelta(seconds=15),
    num_retries=3,
)
FOR_PROBES = StoreTimeouts(
    connect=timedelta(seconds=2),
    silence=timedelta(seconds=4),
    whole=timedelta(seconds=5),
    retries=timedelta(0),
    num_retries=0,
)


class StorageUnavailable(BaseError):
    """The storage does not respond, or refuses us: the same may succeed once it is back."""


class KeyTaken(BaseError):
    """A key can be written only once."""


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate errors of an unavailable store into `StorageUnavailable`."""
    try:
        yield
    except (FileNotFoundError, StorageUnavailable, KeyTaken, *OTHER_FAULTS):
        raise
    except (BaseError, OSError) as error:
        if is_disk_full(error):
            raise
        counters.STORAGE_ERRORS.inc()
        raise StorageUnavailable(str(error)) from error


def client_limits(patience: StoreTimeouts) -> dict[str, Any]:
    """Return the timeouts of the store's client, merged with those from the environment."""
    names = {f"{prefix}_{name}".upper(): name for prefix in PREFIXES for name in OF_ENVIRONMENT}
    return {
        "client_options": {
            **{
                name: os.environ[variable]
                for variable, name in names.items()
                if variable in os.environ
            },
            "connect_timeout": patience.connect,
            "read_timeout": patience.silence,
            "timeout": patience.whole,
        },
        "retry_config": {
            "max_retries": patience.num_retries,
            "retry_timeout": patience.retries,
        },
    }
