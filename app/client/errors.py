"""Failures of a command. The exit codes are part of the interface (docs/command-line.md)."""

from typing import Any

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_NO_CONNECTION = 4


class ClientError(Exception):
    exit_code = EXIT_REFUSED

    def __init__(self, message: str, hint: str = "", *, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.body = body or {
            "message": message,
            "type": "client_error",
            "param": None,
            "code": None,
        }


class Refused(ClientError):
    """The service understood and said no, or what was asked for failed."""


class ApiUnavailable(Refused):
    """The service, or what stands before it, is in trouble, or is asked too often; it may pass."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        body: dict[str, Any] | None = None,
        wait_seconds: float = 0.0,
    ) -> None:
        super().__init__(message, hint, body=body)
        self.wait_seconds = wait_seconds


class Misused(ClientError):
    exit_code = EXIT_USAGE


class NoSuchObject(ClientError):
    exit_code = EXIT_NOT_FOUND


class NoConnection(ClientError):
    """Nothing answers, or what answers does not let us in."""

    exit_code = EXIT_NO_CONNECTION


class Unreachable(NoConnection):
    """Nothing answers; that may pass."""

    wait_seconds = 0.0
