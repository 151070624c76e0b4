"""How long a store may stay silent, and what tells one that is away from everything else that goes
wrong.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

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

# Options displace what the environment says to the client (AWS_ALLOW_HTTP, …), so that is read
# here.
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


class Patience(NamedTuple):
    """How long an object store may take before an operation fails."""

    connect: timedelta
    silence: timedelta  # until the answer begins, and between two pieces of it
    whole: timedelta  # for one request with all of its answer
    retries: timedelta  # no request is repeated later than this after the first
    num_retries: int


FOR_REQUESTS = Patience(
    connect=timedelta(seconds=5),
    silence=timedelta(seconds=20),
    whole=timedelta(hours=1),
    retries=timedelta(seconds=15),
    num_retries=3,
)
FOR_PROBES = Patience(
    connect=timedelta(seconds=2),
    silence=timedelta(seconds=4),
    whole=timedelta(seconds=5),
    retries=timedelta(0),
    num_retries=0,
)


class StorageAway(BaseError):
    """The storage does not answer, or refuses us: the same may succeed once it is back."""


class KeyTaken(BaseError):
    """A key is written once."""


@contextmanager
def reaching() -> Iterator[None]:
    """Raise `StorageAway` in place of what the store raises when it is away."""
    try:
        yield
    except (FileNotFoundError, StorageAway, KeyTaken, *OTHER_FAULTS):
        raise
    except (BaseError, OSError) as error:
        if is_disk_full(error):
            raise
        counters.STORAGE_ERRORS.inc()
        raise StorageAway(str(error)) from error


def client_limits(patience: Patience) -> dict[str, Any]:
    """Return how long to wait for the store, with what the environment says to its client."""
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
