"""The HTTP contract as calls. The objects stay what the service sends: nothing here knows their fields."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from app.client.connection import Connection
from app.client.errors import ClientError, NoConnection, NotFound, Refused, Unavailable

Json = dict[str, Any]

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0
REPEAT_AFTER_SECONDS = (0.5, 1.0, 2.0, 4.0)
MAX_WAIT_SECONDS = 30.0  # a service that wants us to wait longer is reported instead
NOTHING_DONE = {429, 503}
IS_IT_ONE = "Is --base-url the address of a FALQON service?"


class Api:
    def __init__(self, connection: Connection) -> None:
        self.base_url = connection.base_url
        self._http = httpx.Client(
            base_url=connection.base_url,
            headers={"authorization": f"Bearer {connection.api_key}", "accept": "application/json", "user-agent": "falqon-cli"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=True,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None, *, patient: bool = False) -> Json:
        """What is None is not asked."""
        params = {name: value for name, value in (query or {}).items() if value is not None}
        return self._json("GET", path, repeatable=patient, params=params)

    def post(self, path: str, body: Json | None = None, *, idempotency_key: str | None = None, repeatable: bool = False) -> Json:
        """Repeated when its answer is lost if that is said to be harmless; with an idempotency key it is: the service does it once."""
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self._json("POST", path, repeatable=repeatable or idempotency_key is not None, json=body, headers=headers)

    def send_file(self, path: str, fields: Mapping[str, str], file: tuple[str, Any]) -> Json:
        """Not repeated when its answer is lost: a second one would be another file."""
        return self._json("POST", path, data=fields, files={"file": file})

    def send_part(self, path: str, content: bytes) -> Json:
        """Repeated when its answer is lost: a part that is not named in the end counts for nothing."""
        return self._json("POST", path, repeatable=True, files={"data": ("upload", content)})

    def delete(self, path: str) -> Json:
        return self._json("DELETE", path)

    def sha256_of(self, path: str) -> str:
        """What the service says the object's bytes hash to: its strong ETag."""
        response = self._send("HEAD", path, repeatable=True)
        if response.is_error:
            raise self._refusal(response)
        return str(response.headers["etag"]).strip('"')

    @contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str], silence_seconds: float) -> Iterator[httpx.Response]:
        """An answer to read bit by bit. Transport errors are the caller's, who can go on where it was."""
        timeout = httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS)
        with self._http.stream("GET", path, headers=dict(headers), timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise self._refusal(response)
            yield response

    def _json(self, method: str, path: str, *, repeatable: bool = False, **request: Any) -> Json:
        return self._object(self._send(method, path, repeatable=repeatable, **request))

    def _send(self, method: str, path: str, *, repeatable: bool, **request: Any) -> httpx.Response:
        for pause in (*REPEAT_AFTER_SECONDS, None):
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                if not repeatable or pause is None:
                    raise self.unreachable(error) from None
            else:
                again = response.status_code in NOTHING_DONE or (repeatable and response.status_code >= 500)
                if _is_final(response) or not again or pause is None or (asked := _asked_to_wait(response, pause)) > MAX_WAIT_SECONDS:
                    return response
                pause = asked
            time.sleep(pause)
        raise AssertionError("the last round returns or raises")

    def _object(self, response: httpx.Response) -> Json:
        if response.is_error:
            raise self._refusal(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise NoConnection(f"{response.url} does not answer as this service would.", IS_IT_ONE)
        return answer

    def unreachable(self, error: httpx.TransportError) -> NoConnection:
        reason = "does not answer in time" if isinstance(error, httpx.TimeoutException) else f"cannot be reached ({error})"
        return NoConnection(f"{self.base_url} {reason}.", "Is the service running (`falqon up`), and is --base-url right?")

    def _refusal(self, response: httpx.Response) -> ClientError:
        body = _error_body(response)
        if body is None:
            message = f"{response.request.method} {response.url} answered {response.status_code}, and not as this service would."
            return (Unavailable if response.is_server_error else NoConnection)(message, IS_IT_ONE)
        message, hint = str(body.get("message")), _what_to_look_at(body, response)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return NoConnection(f"{self.base_url} refuses the API key: {message}", "Set FALQON_API_KEY or pass --api-key.", body=body)
        if body.get("code") == "unknown_url":
            return Refused(f"{self.base_url} has no such call: {message}", "Is the service older than this command?", body=body)
        if response.status_code == httpx.codes.NOT_FOUND:
            return NotFound(message, hint, body=body)
        may_pass = response.is_server_error or (response.status_code == httpx.codes.TOO_MANY_REQUESTS and not _is_final(response))
        return (Unavailable if may_pass else Refused)(message, hint, body=body)


def segment(id_: str) -> str:
    """An id as one part of a path, whatever characters it has."""
    return quote(id_, safe=":")


def _error_body(response: httpx.Response) -> Json | None:
    try:
        body = response.json()["error"]
    except (ValueError, TypeError, KeyError):
        return None
    return body if isinstance(body, dict) else None


def _what_to_look_at(body: Json, response: httpx.Response) -> str:
    known = {"code": body.get("code"), "param": body.get("param"), "request": response.headers.get("x-request-id")}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value)


def _is_final(response: httpx.Response) -> bool:
    """A quota that is used up is a 429 too, and asking again does not refill it."""
    return bool(response.headers.get("x-should-retry") == "false")


def _asked_to_wait(response: httpx.Response, default: float) -> float:
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else default
