"""The HTTP contract as calls. The objects stay what the service sends: nothing here knows their
fields.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

import httpx

from app.client.connection import Connection, check_address, readable_key
from app.client.errors import (
    ApiUnavailable,
    ClientError,
    Misused,
    NoConnection,
    NoSuchObject,
    Refused,
    Unreachable,
)
from app.client.http_client import make_http_client

Json = dict[str, Any]

CONNECT_TIMEOUT_SECONDS = 5.0
ANSWER_TIMEOUT_SECONDS = 120.0
NOTHING_DONE = {409, 429, 503}  # 409: another call does the same at the moment
# Errors of an answer that does not come from this service, in every retry.
NO_ANSWER = (httpx.TooManyRedirects, httpx.DecodingError)
SHA256_ETAG = re.compile(r'(?:W/)?"([0-9a-f]{64})"')
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Advice:
    """Advice for a service that cannot be reached."""

    silent: str
    other_service: str
    wrong_key: str


class Api:
    repeat_after_seconds: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0, 4.0)
    # A longer wait is reported instead.
    max_wait_seconds: ClassVar[float] = 30.0
    advice: ClassVar[Advice] = Advice(
        silent="Is the service running (`falqon up`), and is --base-url right?",
        other_service="Is --base-url the address of a FALQON service?",
        wrong_key="Set FALQON_API_KEY or pass --api-key.",
    )

    def __init__(self, connection: Connection, headers: Mapping[str, str] | None = None) -> None:
        check_address(connection.base_url)
        self.connection = connection
        self.base_url = connection.base_url
        self._http = make_http_client(
            connection.base_url,
            headers={
                "authorization": f"Bearer {readable_key(connection.api_key)}",
                "accept": "application/json",
                "user-agent": "falqon-cli",
                **(headers or {}),
            },
            timeout=httpx.Timeout(ANSWER_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            follow_redirects=True,
        )

    def close(self) -> None:
        self._http.close()

    def get(
        self, path: str, query: Mapping[str, Any] | None = None, *, repeatable: bool = False
    ) -> Json:
        """Send a GET; parameters that are None are left out."""
        params = {name: value for name, value in (query or {}).items() if value is not None}
        return self._json("GET", path, repeatable=repeatable, params=params)

    def read_description(self) -> Json:
        """Return the service's description of its own API, /openapi.json."""
        return self._json("GET", self._beside("/openapi.json"))

    def readiness(self) -> Json:
        """Return the service's report on its parts; it comes even where one of them is
        unavailable.
        """
        response = self._send("GET", self._beside("/readyz"), repeatable=False)
        with suppress(ValueError):
            if "checks" in (answer := response.json()):
                return dict(answer)
        return self._object(response)

    def post(
        self,
        path: str,
        body: Json | None = None,
        *,
        idempotency_key: str | None = None,
        repeatable: bool = False,
        silence_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Json:
        """Repeated when its answer is lost if that is said to be harmless; with an idempotency key
        it is: the service does it once.
        """
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self._json(
            "POST",
            path,
            repeatable=repeatable or idempotency_key is not None,
            content=_content(body),
            headers=JSON_HEADERS | headers if body is not None else headers,
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_TIMEOUT_SECONDS),
        )

    def send_file(
        self,
        path: str,
        fields: Mapping[str, str],
        file: tuple[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> Json:
        """Send a file, once without an idempotency key: a second try would make another file."""
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self._json(
            "POST",
            path,
            repeatable=idempotency_key is not None,
            data=fields,
            files={"file": file},
            headers=headers,
        )

    def send_part(self, path: str, content: bytes) -> Json:
        """Send a part, again if the answer is lost: a part that is never named counts for
        nothing.
        """
        return self._json("POST", path, repeatable=True, files={"data": ("upload", content)})

    def delete(self, path: str) -> Json:
        return self._json("DELETE", path)

    def sha256_of(self, path: str) -> str:
        """Return the hash that the service states for the object, its ETag."""
        # A proxy that compresses answers would remove the ETag, or weaken it.
        headers = {"accept-encoding": "identity"}
        response = self._send("HEAD", path, repeatable=True, headers=headers)
        if response.is_error:
            raise self._refusal(response)
        match = SHA256_ETAG.fullmatch(response.headers.get("etag", ""))
        if match is None:
            raise NoConnection(f"{response.url} names no sha256.", self.advice.other_service)
        return match[1]

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        silence_seconds: float,
        headers: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer to read bit by bit, to a GET or to a POST with a body. Transport errors are the
        caller's, who can go on where it was.
        """
        timeout = httpx.Timeout(silence_seconds, connect=CONNECT_TIMEOUT_SECONDS)
        method = "GET" if body is None else "POST"
        sent = dict(headers or {}) if body is None else JSON_HEADERS | dict(headers or {})
        try:
            with self._http.stream(
                method, path, headers=sent, content=_content(body), timeout=timeout
            ) as response:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                yield response
        except NO_ANSWER as error:
            raise self._no_answer(error) from None

    def _beside(self, path: str) -> str:
        """Return the address of what the service has outside /v1."""
        return f"{self.base_url.removesuffix('/v1')}{path}"

    def _json(self, method: str, path: str, *, repeatable: bool = False, **request: Any) -> Json:
        return self._object(self._send(method, path, repeatable=repeatable, **request))

    def _send(self, method: str, path: str, *, repeatable: bool, **request: Any) -> httpx.Response:
        for pause in (*self.repeat_after_seconds, None):
            try:
                response = self._http.request(method, path, **request)
            except NO_ANSWER as error:
                raise self._no_answer(error) from None
            except httpx.TransportError as error:
                if not repeatable or pause is None:
                    raise self.unreachable(error) from None
            else:
                again = response.status_code in NOTHING_DONE or (
                    repeatable and response.status_code >= 500
                )
                if (
                    _is_final(response)
                    or not again
                    or pause is None
                    or (seconds := _retry_after_seconds(response, pause)) > self.max_wait_seconds
                ):
                    return response
                pause = seconds
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
            raise NoConnection(
                f"{response.url} does not answer as this service would.", self.advice.other_service
            )
        return answer

    def _no_answer(self, error: httpx.RequestError) -> NoConnection:
        return NoConnection(
            f"{self.base_url} does not answer as this service would: {error}",
            self.advice.other_service,
        )

    def unreachable(self, error: httpx.TransportError) -> Unreachable:
        reason = (
            "does not answer in time"
            if isinstance(error, httpx.TimeoutException)
            else f"cannot be reached ({error})"
        )
        return Unreachable(f"{self._where(error)} {reason}.", self.advice.silent)

    def _where(self, error: httpx.TransportError) -> str:
        """Name what did not answer, which is another machine after a redirect to it."""
        try:
            url = error.request.url
        except RuntimeError:  # The answer had begun.
            return self.base_url
        here = self._http.base_url
        if (url.host, url.port) == (here.host, here.port):
            return self.base_url
        origin = f"{url.scheme}://{url.netloc.decode()}"
        return f"{origin}, the object store to which {self.base_url} sends for these bytes,"

    def _refusal(self, response: httpx.Response) -> ClientError:
        body = _error_body(response)
        if body is None:
            message = (
                f"{response.request.method} {response.url} answered {response.status_code}, and "
                "not as this service would."
            )
            if response.is_server_error:
                return ApiUnavailable(message, self.advice.other_service)
            return NoConnection(message, self.advice.other_service)
        message = str(body.get("message"))
        hint = _what_to_look_at(body, response)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return NoConnection(
                f"{self.base_url} refuses the API key: {message}",
                self.advice.wrong_key,
                body=body,
            )
        if body.get("code") == "unknown_url":
            return Refused(
                f"{self.base_url} has no such call: {message}",
                "Is the service older than this command?",
                body=body,
            )
        if response.status_code == httpx.codes.NOT_FOUND:
            return NoSuchObject(message, hint, body=body)
        may_pass = response.is_server_error or (
            response.status_code in NOTHING_DONE and not _is_final(response)
        )
        if may_pass:
            return ApiUnavailable(
                message, hint, body=body, wait_seconds=_retry_after_seconds(response, 0.0)
            )
        return Refused(message, hint, body=body)


def segment(id_: str) -> str:
    """An id as one part of a path, whatever characters it has."""
    return quote(id_, safe=":")


def _content(body: Json | None) -> bytes | None:
    """Return the body of a request. Raises `Misused` for a number that JSON does not have."""
    if body is None:
        return None
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise Misused("A number that was given is not finite.") from None
    return text.encode()


def _error_body(response: httpx.Response) -> Json | None:
    try:
        body = response.json()["error"]
    except (ValueError, TypeError, KeyError):
        return None
    return body if isinstance(body, dict) else None


def _what_to_look_at(body: Json, response: httpx.Response) -> str:
    facts = {
        "code": body.get("code"),
        "param": body.get("param"),
        "request": response.headers.get("x-request-id"),
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)


def _is_final(response: httpx.Response) -> bool:
    """A quota that is used up is a 429 too, and asking again does not refill it."""
    if response.headers.get("x-should-retry") == "false":
        return True
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return False
    return (_error_body(response) or {}).get("code") == "insufficient_quota"


def _retry_after_seconds(response: httpx.Response, default: float) -> float:
    """Return the wait that the answer asks for, in whole seconds or OpenAI's milliseconds."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        number = response.headers.get(name, "")
        if number.isdecimal():
            return float(number) * unit
    return default
