"""Polling of an object for minutes or hours, in which the service may be unavailable: a restart, an
update.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from app.client.api import Json
from app.client.command import Client
from app.client.errors import ApiUnavailable, Refused, Unreachable

POLL_TIMEOUT_SECONDS = 600.0
RETRY_SECONDS = 2.0


def poll(
    client: Client, path: str, query: Mapping[str, Any] | None = None, *, how_to_go_on: str
) -> Json:
    """Return the object as it is now. A service that stays unavailable raises `Unreachable` or
    `ApiUnavailable`, which say how to go on.
    """
    give_up_at = time.monotonic() + POLL_TIMEOUT_SECONDS
    is_told = False
    while True:
        try:
            return client.api.get(path, query, repeatable=True)
        except (Unreachable, ApiUnavailable) as error:
            if not _may_pass(error) or time.monotonic() > give_up_at:
                error.hint = how_to_go_on
                raise
            if not is_told:
                client.out.note(f"{error.message} Trying again.")
                is_told = True
            time.sleep(max(RETRY_SECONDS, error.wait_seconds))


def wait_until_done(
    client: Client,
    path: str,
    operation: Json,
    every_seconds: float,
    *,
    how_to_go_on: str,
    show: Callable[[Json], None] = lambda operation: None,
) -> Json:
    """Return an export or an evaluation once it has ended; `show` is called with it until then.
    Raises `Refused` if it failed.
    """
    while operation["status"] == "in_progress":
        show(operation)
        time.sleep(every_seconds)
        operation = poll(client, path, how_to_go_on=how_to_go_on)
    if error := operation["error"]:
        body = error | {"type": "invalid_request_error", "param": None}
        raise Refused(error["message"], f"code {error['code']}", body=body)
    return operation


def _may_pass(error: Unreachable | ApiUnavailable) -> bool:
    """Tell an unavailable service from one that fails at this request, and so names no time."""
    return error.body.get("type") != "server_error" or error.wait_seconds > 0
